"""Contract: its use on every call, on the caller's side and on the worker's."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

import msgspec

from taskcore.contract.codec import PLAIN, Codec, first_line, kind_of, schema_of, short_repr
from taskcore.errors import InvalidArguments, UnencodableResult

if TYPE_CHECKING:  # few tasks declare errors
    from taskcore.contract.errors import ErrorCodec

__all__ = ["Arguments", "Contract", "Function", "Injected", "Upcast"]

Function = Callable[..., Any]
Upcast = Callable[[dict[str, Any]], dict[str, Any]]

UNTOLD = "it does not fit; its text may hold values"
ATOMS = (str, bool, NoneType)  #: results of these types need no check: every value arrives equal


class Injected(ABC):
    """The default of a parameter that is no part of the contract: no caller gives it, the worker does."""

    __slots__ = ()

    @abstractmethod
    def wire(self, function: Function) -> Function:
        """Make a function without such parameters: it finds their values by itself, and calls this one."""
        ...


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of one call, by name; each contract compiles its own subclass."""


class Contract(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The signature of a task, compiled; `compile_contract` makes it."""

    name: str  #: the task's name
    version: int  #: the version that `pack` writes and `unpack` returns
    function: Function  #: the function whose signature it is
    is_async: bool  #: whether a call is known to return something to wait for
    raises: tuple[type[BaseException], ...]  #: the errors that travel typed
    where: str  #: file and line of the function: ``hello.py:7``
    signature: str  #: for people: ``greet(name: str, times: int = 1) -> str``
    parameters: tuple[str, ...]  #: their names, in order
    injected: frozenset[str]  #: the names of parameters that the worker fills in
    typed: tuple[inspect.Parameter, ...]  #: with the type resolved, and the default as msgspec wants it
    _texts: frozenset[str]  # whose values are texts, or None
    _nameless: frozenset[str]  # positional only
    _by_name: tuple[str, ...]  # keyword only
    _struct: type[Arguments]
    _arguments: Codec
    result: Codec  #: packs and unpacks what it returns
    _upcasts: Mapping[int, Upcast]
    _errors: Mapping[str, ErrorCodec]

    def __repr__(self) -> str:
        return f"<Contract {self.name} version {self.version}: {self.signature}>"

    # the caller's side

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Return the arguments of a call as they will arrive: copies, not the caller's objects.

        :raises InvalidArguments: they do not fit; every problem is named.
        """
        return self._encode_checked(args, kwargs)[0]

    def encode(self, arguments: Arguments) -> bytes:
        """Encode arguments that came out of `bind` or `unpack`; equal arguments have equal bytes."""
        return self._arguments.encode(arguments)

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Bind and encode in one step, the fast way.

        :raises InvalidArguments: they do not fit; every problem is named.
        """
        return self._encode_checked(args, kwargs)[1]

    def _encode_checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Arguments, bytes]:
        failure: object = None
        if self._nameless.isdisjoint(kwargs):  # the struct would take those by name, too
            try:
                return self._arguments.encode_checked(self._struct(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - arguments bring their own code: __eq__, __post_init__, …
                failure = error
        what = f"{self.function.__name__}() refuses these arguments; nothing was sent"
        told, public = (self._misuse(args, kwargs, values=values) for values in (True, False))
        raise self._refusal(told or [first_line(failure)], public or [UNTOLD], what=what)

    def _misuse(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, values: bool) -> list[str]:
        """List the problems of a call."""
        names = self.parameters[: len(self.parameters) - len(self._by_name)]
        given = dict(zip(names, args, strict=False))
        lines = self._problems({**kwargs, **given}, plain=False, values=values)
        for name in kwargs:
            if name in self._nameless or name in given:
                lines.append(f"{name}: {'positional only' if name in self._nameless else 'given by position already'}")
        if len(args) > len(names):
            lines.append(f"takes {len(names)} positional arguments, got {len(args)}")
        return lines

    def _problems(self, given: Mapping[str, Any], *, plain: bool, values: bool) -> list[str]:
        """List the problems of arguments by name: of their values, then of their names."""
        from taskcore.contract.codec.explain import explain  # noqa: PLC0415 - for errors only

        lines = []
        for each in self.typed:
            if each.name in given:
                lines += explain(each.annotation, given[each.name], each.name, plain=plain, values=values)
        absent = [each for each in self.typed if each.name not in given]
        for name in given:
            if name in self.injected:
                lines.append(f"{name}: a dependency, which the worker opens for the job; leave it out")
            elif name not in self.parameters:
                from difflib import get_close_matches  # noqa: PLC0415 - for this error only

                alike = get_close_matches(str(name), [each.name for each in absent], n=1)
                lines.append(f"{name}: unexpected" + (f" (did you mean {alike[0]}?)" if alike else ""))
        return lines + [f"{each.name}: missing" for each in absent if each.default is each.empty]

    def _refusal(
        self, problems: Sequence[str], public: Sequence[str] | None = None, *, what: str = "", fix: str | None = None
    ) -> InvalidArguments:
        """Make the error; ``public`` are the problems without values, if that is not the same."""
        what = what or f"the payload does not fit {self.function.__name__}() version {self.version}"
        facts, public = [*problems, self._described()], [*(public or problems), self._described()]
        return InvalidArguments(what, facts=facts, public_facts=public, fix=fix)

    def _described(self) -> str:
        return f"contract: {self.signature}, defined at {self.where}"

    # both sides

    def fingerprint(self, arguments: Arguments) -> str:
        """Compute what identifies arguments: equal ones have one fingerprint, in every process.

        Parameters that have their default count as left out: one that is added later changes no fingerprint.
        """
        from taskcore.contract.codec.identity import fingerprint_of  # noqa: PLC0415 - for calls with a key

        return fingerprint_of(arguments)

    def key_of(self, arguments: Arguments, names: str | tuple[str, ...]) -> str | None:
        """Make a key of one argument, or of several: a text as it is, everything else by its identity."""
        from taskcore.contract.codec.identity import identity_of  # noqa: PLC0415 - for calls with a key

        if not isinstance(names, str):
            return f"[{','.join(identity_of(getattr(arguments, name)) for name in names)}]"
        value = getattr(arguments, names)
        if value is None or names in self._texts:
            return value  # type: ignore[no-any-return]  # a parameter of texts holds one
        return identity_of(value)

    # the worker's side

    def unpack(self, payload: bytes | msgspec.Raw, version: int) -> Arguments:
        """Decode the arguments in a payload that was written for this version, or for an older one that has upcasts.

        :raises InvalidArguments: they do not fit; never another exception, for any bytes (C24).
        """
        try:
            data = payload if version == self.version else self._upcast(payload, version)
            try:
                arguments: Arguments = self._arguments.decode(data)
            except Exception as error:  # the classes of arguments bring their own code
                given = self._read(data)
                told, public = (self._problems(given, plain=True, values=values) for values in (True, False))
                refusal = self._refusal(told or [first_line(error)], public or [UNTOLD])
                unknown = given.keys() - {*self.parameters, *self.injected}
                refusal.only_unknown = version == self.version and len(told) == len(unknown) > 0
                raise refusal from error
        except InvalidArguments:
            raise
        except BaseException as error:  # SystemExit, too: it would end the worker
            raise self._refusal([f"the code of its classes raised {type(error).__name__}"]) from error
        return arguments

    def _upcast(self, payload: bytes | msgspec.Raw, version: int) -> bytes | msgspec.Raw:
        """Turn the payload into one of this version."""
        written = f"it was written for version {version}"
        if version > self.version:
            raise self._refusal([written], fix="upgrade the workers before the senders")
        if version not in self._upcasts:  # which have no gaps
            missing = f"no upcast from version {version} to {version + 1}"
            raise self._refusal([written, missing], fix=f"upcasts={{{version}: …}} on the task")
        self._read(payload)
        for step in range(version, self.version):
            try:
                payload = copy_context().run(_apply_upcasts, self._upcasts[step], payload)
            except Exception as error:
                failed = f"the upcast from version {step} to {step + 1} failed: {type(error).__name__}"
                raise self._refusal([written, f"{failed}: {first_line(error)}"], [written, failed]) from error
        return payload

    def _read(self, payload: bytes | msgspec.Raw) -> dict[str, Any]:
        try:
            given = PLAIN.decode(payload)
        except Exception as error:
            raise self._refusal([f"not JSON: {error}"]) from error
        if not isinstance(given, dict):
            expected = "expected a JSON object, got"
            raise self._refusal([f"{expected} {short_repr(given)}"], [f"{expected} {kind_of(given)}"])
        return given

    def invoke(self, function: Function, arguments: Arguments) -> Any:
        """Call the function with its arguments, by position or by name as the signature says."""
        values = msgspec.structs.astuple(arguments)
        if not self._by_name:
            return function(*values)
        first = len(values) - len(self._by_name)
        return function(*values[:first], **dict(zip(self._by_name, values[first:], strict=True)))

    def misfit_of(self, function: Callable[..., Any]) -> str | None:
        """Find why `invoke` could not call a function with the arguments; None if it can, as far as is known."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a builtin, which does not tell
            return None
        first = len(self.parameters) - len(self._by_name)
        try:
            signature.bind(*self.parameters[:first], **dict.fromkeys(self._by_name))
        except TypeError as error:
            return str(error)
        return None

    # results and errors, there and back

    def pack_result(self, value: Any) -> bytes:
        """Encode what the function returned, as JSON.

        :raises UnencodableResult: it does not fit the return annotation; never another exception.
        """
        try:
            if type(value) is self.result.annotation and type(value) in ATOMS:
                return self.result.encode(value)
            return self.result.encode_checked(value)[1]
        except BaseException as error:  # noqa: BLE001 - results bring their own code, SystemExit included
            told, public = (self._problems_of_result(value, error, values=values) for values in (True, False))
        raise UnencodableResult(
            f"{self.function.__name__}() succeeded, but what it returned does not fit its contract",
            facts=[*told, self._described()],
            public_facts=[*public, self._described()],
            fix="return what the annotation says, or change the annotation",
        )

    def _problems_of_result(self, value: Any, error: BaseException, *, values: bool) -> list[str]:
        from taskcore.contract.codec.explain import explain  # noqa: PLC0415 - for this error only

        try:
            problems = explain(self.result.annotation, value, "result", values=values)
            return problems or [f"result: {first_line(error) if values else UNTOLD}"]
        except BaseException:  # noqa: BLE001 - as above
            return [f"result: its own code raised {type(error).__name__}"]

    def unpack_result(self, data: bytes) -> Any:
        """Decode the result in these bytes, typed.

        :raises UnencodableResult: it does not fit the return annotation: another version of the task wrote it.
        """
        try:
            return self.result.decode(data)
        except Exception as error:
            what = f"the stored result does not fit {self.function.__name__}() version {self.version}"
            raise UnencodableResult(what, facts=[f"result: {first_line(error)}", self._described()]) from error

    def pack_error(self, error: BaseException) -> bytes | None:
        """Encode an error, if its class, or else a base of it, is declared in ``raises``; it arrives as that class.

        :returns: None if none is declared, or if it would not arrive with equal ``args`` and attributes.
        """
        try:
            declared = next((cls for cls in type(error).__mro__ if cls in self.raises), None)
            return None if declared is None else self._errors[declared.__qualname__].pack(error)
        except BaseException:  # noqa: BLE001 - errors and their classes bring their own code, SystemExit included
            return None

    def unpack_error(self, data: bytes) -> BaseException | None:
        """Rebuild the error in these bytes by its class in ``raises`` and by no other; None if that cannot be."""
        from taskcore.contract.errors import ErrorPayload  # noqa: PLC0415 - few tasks declare errors

        try:
            payload = msgspec.json.decode(data, type=ErrorPayload)
            return self._errors[payload.type].rebuild(payload)
        except Exception:  # noqa: BLE001 - error classes bring their own code, too
            return None

    # about the contract

    def largest(self, payload: bytes) -> tuple[str, int]:
        """Find the largest argument in a payload, and its size in bytes; ``("", 0)`` if there is none."""
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            arguments = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
            return max(((name, len(bytes(raw))) for name, raw in arguments.items()), key=itemgetter(1), default=("", 0))
        return "", 0

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12): ``task``, ``version``, ``parameters``, ``result``, ``$defs``."""
        models: dict[str, Any] = {}
        (parameters, result), shared = msgspec.json.schema_components(
            (self._struct, self.result.annotation),
            schema_hook=partial(schema_of, shared=models),
            ref_template="#/$defs/{name}",
        )
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "task": self.name,
            "version": self.version,
            "parameters": shared.pop(parameters["$ref"].rpartition("/")[2]),
            "result": result,
            "$defs": {**shared, **models},
        }


def _apply_upcasts(upcast: Upcast, payload: bytes | msgspec.Raw) -> bytes:
    arguments = upcast(PLAIN.decode(payload))
    if not isinstance(arguments, dict):
        raise TypeError(f"it returned {short_repr(arguments)}, not a dict")
    return PLAIN.encode(arguments)
