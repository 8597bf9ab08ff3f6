"""The contract of a task: what its signature promises, compiled once and kept on every call.

    decoration   compile_contract(greet)      a signature that cannot be kept                      InvalidContract
    caller       pack(args, kwargs)           what does not fit never leaves                       InvalidArguments
    worker       unpack(payload, version)     what does not fit never reaches the function         InvalidArguments
                 spread(function, arguments)  the call itself
                 pack_result(value)           what does not fit is not stored                      UnencodableResult
                 pack_error(error)            only classes that the task declares in ``raises``    None
    caller       unpack_result, unpack_error  the typed value, the typed error

Rule 1: a refusal names everything that is wrong at once, where it stands, and the contract.
Rule 2: what is accepted arrives equal; ``shape.py`` says how that is known.
Rule 3: nothing is imported, and no class is chosen, because a payload says so.

A payload is a JSON object: the arguments by name, all of them, defaults included; sets are sorted, dicts are not. A
reader fills in defaults that a sender left out, and refuses parameters that it does not know (inside a dataclass,
msgspec ignores unknown fields). Without annotation, or with ``Any``, a parameter takes plain JSON data: None, bool,
int, float, str, lists of these, and dicts of these with str keys.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from taskcore.errors import InvalidArguments, InvalidContract, UnencodableResult
from taskcore.shape import Flaw, NoShape, Shape, describe, explain, resolve, same, schema_of, shorten, show, tidy

__all__ = ["Arguments", "Contract", "Upcast", "compile_contract"]

Function = Callable[..., Any]
Upcast = Callable[[dict[str, Any]], dict[str, Any]]

PLAIN = Shape(Any)
ATOMS = (str, bool, NoneType)  #: results of these types need no check: every value arrives equal
#: defaults of these types can be shared by all calls, others are made anew for each
CONSTANTS = (str, int, float, bytes, NoneType, Enum, UUID, Decimal, date, time, timedelta)


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of one call, by name; each contract compiles its own subclass."""


class Contract(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What one task promises; `compile_contract` makes it."""

    name: str  #: the task's name
    version: int  #: the version that `pack` writes and `unpack` returns
    function: Function  #: the function whose signature it is
    raises: tuple[type[BaseException], ...]  #: the errors that travel typed
    where: str  #: file and line of the function: ``hello.py:7``
    signature: str  #: for people: ``greet(name: str, times: int = 1) -> str``
    parameters: tuple[str, ...]  #: their names, in order
    _parameters: tuple[inspect.Parameter, ...]  # with the type resolved, and the default as msgspec wants it
    _nameless: frozenset[str]  # positional only
    _by_name: tuple[str, ...]  # keyword only
    _struct: type[Arguments]
    _arguments: Shape
    _result: Shape
    _upcasts: Mapping[int, Upcast]
    _errors: Mapping[str, ErrorShape]

    def __repr__(self) -> str:
        return f"<Contract {self.name} version {self.version}: {self.signature}>"

    # the caller's side

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call as they will arrive: copies, not the caller's objects.

        :raises InvalidArguments: they do not fit; every problem is named.
        """
        return self._admit(args, kwargs)[0]

    def encode(self, arguments: Arguments) -> bytes:
        """The payload for arguments that came out of `bind` or `unpack`; equal arguments, equal bytes."""
        return self._arguments.encode(arguments)

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """`bind` and `encode` in one step, the fast way.

        :raises InvalidArguments: they do not fit; every problem is named.
        """
        return self._admit(args, kwargs)[1]

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Arguments, bytes]:
        failure: object = None
        if self._nameless.isdisjoint(kwargs):  # the struct would take those by name, too
            try:
                return self._arguments.admit(self._struct(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - arguments bring their own code: __eq__, __post_init__, …
                failure = error
        what = f"{self.function.__name__}() refuses these arguments; nothing was sent"
        raise self._refusal(self._misuse(args, kwargs) or [tidy(failure)], what=what)

    def _misuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """What is wrong with a call."""
        names = self.parameters[: len(self.parameters) - len(self._by_name)]
        given = dict(zip(names, args, strict=False))
        lines = self._misfits({**kwargs, **given}, wire=False)
        for name in kwargs:
            if name in self._nameless or name in given:
                lines.append(f"{name}: {'positional only' if name in self._nameless else 'given by position already'}")
        if len(args) > len(names):
            lines.append(f"takes {len(names)} positional arguments, got {len(args)}")
        return lines

    def _misfits(self, given: Mapping[str, Any], *, wire: bool) -> list[str]:
        """What is wrong with arguments by name: with their values, then with their names."""
        lines = []
        for each in self._parameters:
            if each.name in given:
                lines += explain(each.annotation, given[each.name], each.name, wire=wire)
        absent = [each for each in self._parameters if each.name not in given]
        for name in given:
            if name not in self.parameters:
                alike = difflib.get_close_matches(str(name), [each.name for each in absent], n=1)
                lines.append(f"{name}: unexpected" + (f" (did you mean {alike[0]}?)" if alike else ""))
        return lines + [f"{each.name}: missing" for each in absent if each.default is each.empty]

    def _refusal(self, problems: Iterable[str], *, what: str = "", fix: str | None = None) -> InvalidArguments:
        what = what or f"the payload does not fit {self.function.__name__}() version {self.version}"
        return InvalidArguments(what, facts=[*problems, self._told()], fix=fix)

    def _told(self) -> str:
        return f"contract: {self.signature}, defined at {self.where}"

    # the worker's side

    def unpack(self, payload: bytes | msgspec.Raw, version: int) -> Arguments:
        """The arguments in a payload that was written for this version, or for an older one that has upcasts.

        :raises InvalidArguments: they do not fit; never another exception, for any bytes (C24).
        """
        data = payload if version == self.version else self._upcast(payload, version)
        try:
            arguments: Arguments = self._arguments.decode(data)
        except Exception as error:  # the classes of arguments bring their own code
            raise self._refusal(self._misfits(self._read(data), wire=True) or [tidy(error)]) from error
        return arguments

    def _upcast(self, payload: bytes | msgspec.Raw, version: int) -> bytes | msgspec.Raw:
        """The payload as this version would have written it."""
        written = f"it was written for version {version}"
        if version > self.version:
            raise self._refusal([written], fix="upgrade the workers before the senders")
        if version not in self._upcasts:  # which have no gaps
            missing = f"no upcast from version {version} to {version + 1}"
            raise self._refusal([written, missing], fix=f"upcasts={{{version}: …}} on the task")
        self._read(payload)
        for step in range(version, self.version):
            try:
                payload = _climb(self._upcasts[step], payload)
            except Exception as error:
                failed = f"the upcast from version {step} to {step + 1} failed: {type(error).__name__}: {tidy(error)}"
                raise self._refusal([written, failed]) from error
        return payload

    def _read(self, payload: bytes | msgspec.Raw) -> dict[str, Any]:
        try:
            given = PLAIN.decode(payload)
        except Exception as error:
            raise self._refusal([f"not JSON: {error}"]) from error
        if not isinstance(given, dict):
            raise self._refusal([f"expected a JSON object, got {show(given)}"])
        return given

    def spread(self, function: Function, arguments: Arguments) -> Any:
        """Calls the function with its arguments, by position or by name as the signature says; returns what it does."""
        values = msgspec.structs.astuple(arguments)
        if not self._by_name:
            return function(*values)
        first = len(values) - len(self._by_name)
        return function(*values[:first], **dict(zip(self._by_name, values[first:], strict=True)))

    # results and errors, there and back

    def pack_result(self, value: Any) -> bytes:
        """What the function returned, as JSON.

        :raises UnencodableResult: it does not fit the return annotation; never another exception.
        """
        try:
            if type(value) is self._result.annotation and type(value) in ATOMS:
                return self._result.encode(value)
            return self._result.admit(value)[1]
        except Exception as error:  # noqa: BLE001 - results bring their own code, like arguments
            problems = explain(self._result.annotation, value, "result") or [f"result: {tidy(error)}"]
        raise UnencodableResult(
            f"{self.function.__name__}() succeeded, but what it returned does not fit its contract",
            facts=[*problems, self._told()],
            fix="return what the annotation says, or change the annotation",
        )

    def unpack_result(self, data: bytes) -> Any:
        """The result in these bytes, typed.

        :raises UnencodableResult: it does not fit the return annotation: another version of the task wrote it.
        """
        try:
            return self._result.decode(data)
        except Exception as error:
            what = f"the stored result does not fit {self.function.__name__}() version {self.version}"
            raise UnencodableResult(what, facts=[f"result: {tidy(error)}", self._told()]) from error

    def pack_error(self, error: BaseException) -> bytes | None:
        """An error as JSON, if its class, or else a base of it, is declared in ``raises``; it arrives as that class.

        :returns: None if none is declared, or if it would not arrive with equal ``args`` and attributes.
        """
        declared = next((cls for cls in type(error).__mro__ if cls in self.raises), None)
        return None if declared is None else self._errors[declared.__qualname__].pack(error)

    def unpack_error(self, data: bytes) -> BaseException | None:
        """The error in these bytes, built by its class in ``raises`` and by no other; None if that cannot be."""
        try:
            story = msgspec.json.decode(data, type=Story)
            return self._errors[story.type].rebuild(story)
        except Exception:  # noqa: BLE001 - error classes bring their own code, too
            return None

    # about the contract

    def largest(self, payload: bytes) -> tuple[str, int]:
        """The argument that takes the most room in a payload, and its size in bytes; ``("", 0)`` if there is none."""
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            arguments = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
            return max(((name, len(bytes(raw))) for name, raw in arguments.items()), key=itemgetter(1), default=("", 0))
        return "", 0

    def schema(self) -> dict[str, Any]:
        """The contract as JSON Schema (draft 2020-12): ``task``, ``version``, ``parameters``, ``result``, ``$defs``."""
        models: dict[str, Any] = {}
        (parameters, result), shared = msgspec.json.schema_components(
            (self._struct, self._result.annotation),
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


def _climb(upcast: Upcast, payload: bytes | msgspec.Raw) -> bytes:
    arguments = upcast(PLAIN.decode(payload))
    if not isinstance(arguments, dict):
        raise TypeError(f"it returned {show(arguments)}, not a dict")
    return PLAIN.encode(arguments)


# ── compiling ────────────────────────────────────────────────────────────────────────────────────


def compile_contract(
    function: Function,
    *,
    name: str,
    version: int = 1,
    upcasts: Mapping[int, Upcast] | None = None,
    raises: tuple[type[BaseException], ...] = (),
) -> Contract:
    """The contract of a function.

    :param name: the task's name.
    :param version: to be raised when older payloads do not fit any more; from 1.
    :param upcasts: from version k, what makes version k + 1 of its arguments; each from the lowest on.
    :param raises: the errors that callers get back typed.
    :raises InvalidContract: the signature or an option cannot be kept; all reasons are named.
    """
    if not inspect.isfunction(function):
        facts, fix = ["a contract is the signature of a function, def or async def"], "call it from a function of yours"
        raise InvalidContract(f"{show(function)} cannot be a task", facts=facts, fix=fix)
    steps = {} if upcasts is None else upcasts
    try:
        signature = inspect.signature(function)
    except Exception as error:  # since Python 3.14, annotations are evaluated here
        raise _invalid(function, [Flaw(tidy(error), "define the names in its annotations above it")]) from error
    flaws = [*_kind_flaws(function, signature), *_version_flaws(version, steps), *_raises_flaws(raises)]
    parameters = [found for each in signature.parameters.values() if (found := _parameter(function, each, flaws))]
    result = _result(function, signature.return_annotation, flaws)
    if flaws:
        raise _invalid(function, flaws)
    struct = _struct(function.__name__, parameters)
    return Contract(
        name=name,
        version=version,
        function=function,
        raises=raises,
        where=_where(function),
        signature=_text(function, signature),
        parameters=tuple(each.name for each in parameters),
        _parameters=tuple(parameters),
        _nameless=frozenset(each.name for each in parameters if each.kind is each.POSITIONAL_ONLY),
        _by_name=tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY),
        _struct=struct,
        _arguments=Shape(struct),
        _result=result,
        _upcasts=dict(steps),
        _errors={cls.__qualname__: ErrorShape(cls) for cls in raises},
    )


def _invalid(function: Any, flaws: Iterable[Flaw]) -> InvalidContract:
    facts, fixes = zip(*flaws, strict=True)
    what, place = f"{function.__name__}() cannot be a task", f"defined at {_where(function)}"
    return InvalidContract(what, facts=[*facts, place], fix="; ".join(dict.fromkeys(fixes)))


def _kind_flaws(function: Any, signature: inspect.Signature) -> Iterator[Flaw]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield Flaw("it is a generator, and a job has one result", "return a list, or enqueue one job for each item")
    owner, first = function.__qualname__.rpartition(".")[0], next(iter(signature.parameters), "")
    if first in {"self", "cls"} and owner and not owner.endswith("<locals>"):
        yield Flaw(f"it is a method of {owner}", "make it a function of the module, and send what it needs")


def _version_flaws(version: Any, upcasts: Any) -> Iterator[Flaw]:
    if type(version) is not int or version < 1 or not isinstance(upcasts, Mapping):
        numbered = f"expected a version from 1 and a dict, got {show(version)} and {show(upcasts)}"
        yield Flaw(f"version, upcasts: {numbered}", "for example version=2, upcasts={1: from_v1}")
        return
    known = {step for step in upcasts if type(step) is int and 1 <= step < version}
    for step, upcast in upcasts.items():
        if step not in known:
            yield Flaw(f"upcasts: {step!r} is not a version below {version}", "keys are the versions to start from")
        elif not callable(upcast):
            yield Flaw(f"upcasts[{step}]: expected a function, got {show(upcast)}", "give functions from dict to dict")
    for step in sorted(set(range(min(known, default=version), version)) - known):
        yield Flaw(f"no upcast from version {step} to {step + 1}", f"upcasts={{{step}: …}}")


def _raises_flaws(raises: Any) -> Iterator[Flaw]:
    names = [getattr(each, "__qualname__", "") for each in raises] if isinstance(raises, tuple) else []
    for each in raises if isinstance(raises, tuple) else [raises]:
        if not (names and isinstance(each, type) and issubclass(each, BaseException)):
            yield Flaw(f"raises: expected exception classes, got {show(each)}", "give a tuple: raises=(CardDeclined,)")
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield Flaw(f"raises: several classes are called {name}", "rename them, or declare their base")


def _parameter(function: Any, each: inspect.Parameter, flaws: list[Flaw]) -> inspect.Parameter | None:
    name = each.name
    if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
        star, kind = ("*", "list[…]") if each.kind is each.VAR_POSITIONAL else ("**", "dict[str, …]")
        flaws.append(Flaw(f"{star}{name}: a contract has only parameters with names", f"take {name}: {kind}"))
        return None
    if name.startswith("__"):
        flaws.append(Flaw(f"{name}: such names are Python's own", "begin it with one underscore at most"))
        return None
    try:
        shape = Shape(resolve(function, each.annotation))
    except NoShape as error:
        flaws += [Flaw(f"{name}: {flaw.fact}", flaw.fix) for flaw in error.flaws]
        return None
    if each.default is each.empty:
        return each.replace(annotation=shape.annotation)
    try:
        arrived, data = shape.admit(each.default)
    except Exception as error:  # noqa: BLE001 - defaults bring their own code, like arguments
        problems = explain(shape.annotation, each.default, name) or [f"{name}: {tidy(error)}"]
        optional = f"write {name}: {describe(shape.annotation)} | None"
        flaws.append(Flaw(f"the default of {problems[0]}", optional if each.default is None else "give one that fits"))
        return None
    shared = isinstance(arrived, CONSTANTS)
    default = msgspec.field(default=arrived) if shared else msgspec.field(default_factory=partial(shape.decode, data))
    return each.replace(annotation=shape.annotation, default=default)


def _result(function: Any, annotation: Any, flaws: list[Flaw]) -> Shape:
    try:
        returned = resolve(function, annotation)
        if get_origin(returned) in {Awaitable, Coroutine} and not inspect.iscoroutinefunction(function):
            returned = get_args(returned)[-1]
        return Shape(returned)
    except NoShape as error:
        flaws += [Flaw(f"the return type: {flaw.fact}", flaw.fix) for flaw in error.flaws]
        return PLAIN


def _struct(name: str, parameters: Iterable[inspect.Parameter]) -> type[Arguments]:
    """The class of the arguments; keyword-only ones are in a subclass, because msgspec knows no ``*``."""
    struct: Any = Arguments
    for by_name in (False, True):
        some = [each for each in parameters if (each.kind is each.KEYWORD_ONLY) is by_name]
        fields: Any = [(p.name, p.annotation, *(() if p.default is p.empty else (p.default,))) for p in some]
        if fields:
            struct = msgspec.defstruct(name, fields, bases=(struct,), kw_only=by_name)
    return cast("type[Arguments]", struct)


def _text(function: Any, signature: inspect.Signature) -> str:
    """The signature for people, with annotations as they are written."""

    def written(annotation: Any) -> Any:
        text = annotation if isinstance(annotation, str) else shorten(inspect.formatannotation(annotation))
        return annotation if annotation is signature.empty else AsWritten(text)

    parameters = []
    for each in signature.parameters.values():
        default = each.default if each.default is each.empty else AsWritten(show(each.default, bare=True))
        parameters.append(each.replace(annotation=written(each.annotation), default=default))
    returns = written(signature.return_annotation)
    return f"{function.__name__}{signature.replace(parameters=parameters, return_annotation=returns)}"


class AsWritten(str):
    """Text that `inspect` prints without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _where(function: Any) -> str:
    code = inspect.unwrap(function).__code__
    try:
        near = os.path.relpath(code.co_filename)
    except (ValueError, OSError):  # another drive; a working directory that is gone
        near = os.pardir
    return f"{code.co_filename if near.startswith(os.pardir) else near}:{code.co_firstlineno}"


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


class Story(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as JSON: what its class is called with, by name if that can be known, else by position."""

    type: str  #: the name of the class, as `raises` knows it
    fields: dict[str, msgspec.Raw] = {}
    positional: int = 0  #: how many of the fields were given by position, which decides what ``args`` is
    args: tuple[msgspec.Raw, ...] = ()


class ErrorShape:
    """An error class, compiled: an instance to its story and back.

    What ``__init__`` takes has the type that it says there, or is plain JSON data. An attribute that is called like a
    parameter is taken for what was given, as in dataclasses; where that rebuilds no equal error, ``args`` is.
    """

    __slots__ = ("cls", "shapes")

    def __init__(self, cls: type[BaseException]) -> None:
        self.cls = cls
        self.shapes: dict[str, Shape] = {}
        with suppress(Exception):  # an __init__ that cannot be read: then ``args`` alone has to do
            hints = get_type_hints(cls.__init__, include_extras=True)
            for each in list(inspect.signature(cls.__init__).parameters.values())[1:]:
                if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
                    self.shapes[each.name] = PLAIN
                    with suppress(NoShape):
                        self.shapes[each.name] = Shape(hints.get(each.name, Any))

    def pack(self, error: BaseException) -> bytes | None:
        """The first story of an error that rebuilds an equal one."""
        for tell in (partial(self._by_name, len(error.args)), partial(self._by_name, 0), self._by_position):
            with suppress(Exception):  # errors bring their own code, like arguments
                data = msgspec.json.encode(tell(error))
                back = self.rebuild(msgspec.json.decode(data, type=Story))
                names = [name for name in self.shapes if hasattr(error, name)]
                if same(error.args, back.args) and all(same(getattr(error, n), getattr(back, n)) for n in names):
                    return data
        return None

    def _by_name(self, positional: int, error: BaseException) -> Story:
        fields = {name: msgspec.Raw(shape.admit(getattr(error, name))[1]) for name, shape in self.shapes.items()}
        return Story(self.cls.__qualname__, fields, min(positional, len(fields)))

    def _by_position(self, error: BaseException) -> Story:
        args = tuple(msgspec.Raw(shape.admit(arg)[1]) for shape, arg in self._paired(error.args))
        return Story(self.cls.__qualname__, args=args)

    def rebuild(self, story: Story) -> BaseException:
        """The error that a story tells; raises anything if there is none."""
        fields = {name: self.shapes[name].decode(raw) for name, raw in story.fields.items()}
        first = [fields.pop(name) for name in list(fields)[: story.positional]]
        return self.cls(*first, *(shape.decode(raw) for shape, raw in self._paired(story.args)), **fields)

    def _paired(self, args: Iterable[Any]) -> Iterable[tuple[Shape, Any]]:
        return zip(chain(self.shapes.values(), repeat(PLAIN)), args, strict=False)
