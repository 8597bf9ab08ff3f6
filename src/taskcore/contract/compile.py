"""Compiling: from a function to its contract, or to all problems of its signature at once."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin
from uuid import UUID

import msgspec

from taskcore.contract.codec import (
    PLAIN,
    Codec,
    Problem,
    UnsupportedType,
    describe,
    first_line,
    is_text,
    resolve,
    short_repr,
    shorten,
)
from taskcore.contract.contract import Arguments, Contract, Function, Injected, Upcast
from taskcore.errors import InvalidContract

if TYPE_CHECKING:  # few tasks declare errors
    from taskcore.contract.errors import ErrorCodec

__all__ = ["compile_contract"]

#: defaults of these types can be shared by all calls, others are made anew for each
CONSTANTS = (str, int, float, bytes, NoneType, Enum, UUID, Decimal, date, time, timedelta)


def compile_contract(
    function: Function,
    *,
    name: str,
    version: int = 1,
    upcasts: Mapping[int, Upcast] | None = None,
    raises: tuple[type[BaseException], ...] = (),
) -> Contract:
    """Compile the contract of a function.

    :param name: the task's name.
    :param version: to be raised when older payloads do not fit any more; from 1.
    :param upcasts: from version k, what makes version k + 1 of its arguments; each from the lowest on.
    :param raises: the errors that callers get back typed.
    :raises InvalidContract: the signature or an option cannot be kept; all reasons are named.
    """
    if not inspect.isfunction(function):
        facts, fix = ["a contract is the signature of a function, def or async def"], "call it from a function of yours"
        raise InvalidContract(f"{short_repr(function)} cannot be a task", facts=facts, fix=fix)
    steps = {} if upcasts is None else upcasts
    try:
        signature = inspect.signature(function)
    except Exception as error:  # since Python 3.14, annotations are evaluated here
        raise _invalid(
            function, [Problem(first_line(error), "define the names in its annotations above it")]
        ) from error
    problems = [*_kind_problems(function, signature), *_version_problems(version, steps), *_raises_problems(raises)]
    injected = {name: each.default for name, each in signature.parameters.items() if isinstance(each.default, Injected)}
    if injected:
        function = next(iter(injected.values())).wire(function)
        signature = inspect.signature(function)
    parameters = [found for each in signature.parameters.values() if (found := _parameter(function, each, problems))]
    result, is_async = _result(function, signature.return_annotation, problems)
    if problems:
        raise _invalid(function, problems)
    struct = _struct(function.__name__, parameters)
    return Contract(
        name=name,
        version=version,
        function=function,
        is_async=is_async,
        raises=raises,
        where=_where(function),
        signature=_text(function, signature),
        parameters=tuple(each.name for each in parameters),
        injected=frozenset(injected),
        typed=tuple(parameters),
        _texts=frozenset(each.name for each in parameters if is_text(each.annotation)),
        _nameless=frozenset(each.name for each in parameters if each.kind is each.POSITIONAL_ONLY),
        _by_name=tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY),
        _struct=struct,
        _arguments=Codec(struct),
        result=result,
        _upcasts=dict(steps),
        _errors=_error_codecs(raises) if raises else {},
    )


def _error_codecs(raises: Iterable[type[BaseException]]) -> dict[str, ErrorCodec]:
    from taskcore.contract.errors import ErrorCodec  # noqa: PLC0415 - few tasks declare errors

    return {cls.__qualname__: ErrorCodec(cls) for cls in raises}


def _invalid(function: Any, problems: Iterable[Problem]) -> InvalidContract:
    facts, fixes = zip(*problems, strict=True)
    what, place = f"{function.__name__}() cannot be a task", f"defined at {_where(function)}"
    return InvalidContract(what, facts=[*facts, place], fix="; ".join(dict.fromkeys(fixes)))


def _kind_problems(function: Any, signature: inspect.Signature) -> Iterator[Problem]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield Problem("it is a generator, and a job has one result", "return a list, or enqueue one job for each item")
    owner, first = function.__qualname__.rpartition(".")[0], next(iter(signature.parameters), "")
    if first in {"self", "cls"} and owner and not owner.endswith("<locals>"):
        yield Problem(f"it is a method of {owner}", "make it a function of the module, and send what it needs")


def _version_problems(version: Any, upcasts: Any) -> Iterator[Problem]:
    if type(version) is not int or version < 1 or not isinstance(upcasts, Mapping):
        numbered = f"expected a version from 1 and a dict, got {short_repr(version)} and {short_repr(upcasts)}"
        yield Problem(f"version, upcasts: {numbered}", "for example version=2, upcasts={1: from_v1}")
        return
    known = {step for step in upcasts if type(step) is int and 1 <= step < version}
    for step, upcast in upcasts.items():
        if step not in known:
            yield Problem(f"upcasts: {step!r} is not a version below {version}", "keys are the versions to start from")
        elif not callable(upcast):
            yield Problem(
                f"upcasts[{step}]: expected a function, got {short_repr(upcast)}", "give functions from dict to dict"
            )
    for step in sorted(set(range(min(known, default=version), version)) - known):
        yield Problem(f"no upcast from version {step} to {step + 1}", f"upcasts={{{step}: …}}")


def _raises_problems(raises: Any) -> Iterator[Problem]:
    names = [getattr(each, "__qualname__", "") for each in raises] if isinstance(raises, tuple) else []
    for each in raises if isinstance(raises, tuple) else [raises]:
        if not (names and isinstance(each, type) and issubclass(each, BaseException)):
            yield Problem(
                f"raises: expected exception classes, got {short_repr(each)}", "give a tuple: raises=(CardDeclined,)"
            )
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield Problem(f"raises: several classes are called {name}", "rename them, or declare their base")


def _parameter(function: Any, each: inspect.Parameter, problems: list[Problem]) -> inspect.Parameter | None:
    name = each.name
    if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
        star, kind = ("*", "list[…]") if each.kind is each.VAR_POSITIONAL else ("**", "dict[str, …]")
        problems.append(Problem(f"{star}{name}: a contract has only parameters with names", f"take {name}: {kind}"))
        return None
    if name.startswith("__"):
        problems.append(Problem(f"{name}: such names are Python's own", "begin it with one underscore at most"))
        return None
    try:
        annotation = resolve(function, each.annotation)
        if any(isinstance(meta, Injected) for meta in getattr(annotation, "__metadata__", ())):
            problems.append(
                Problem(f"{name}: a dependency that callers would have to give", f"write {name}: … = Depends(…)")
            )
            return None
        codec = Codec(annotation)
    except UnsupportedType as error:
        problems += [Problem(f"{name}: {problem.fact}", problem.fix) for problem in error.problems]
        return None
    if each.default is each.empty:
        return each.replace(annotation=codec.annotation)
    try:
        arrived, data = codec.encode_checked(each.default)
    except Exception as error:  # noqa: BLE001 - defaults bring their own code, like arguments
        from taskcore.contract.codec.explain import explain  # noqa: PLC0415 - for this error only

        lines = explain(codec.annotation, each.default, name) or [f"{name}: {first_line(error)}"]
        optional = f"write {name}: {describe(codec.annotation)} | None"
        problems.append(
            Problem(f"the default of {lines[0]}", optional if each.default is None else "give one that fits")
        )
        return None
    shared = isinstance(arrived, CONSTANTS)
    default = msgspec.field(default=arrived) if shared else msgspec.field(default_factory=partial(codec.decode, data))
    return each.replace(annotation=codec.annotation, default=default)


def _result(function: Any, annotation: Any, problems: list[Problem]) -> tuple[Codec, bool]:
    """Compile the result, and tell whether it has to be waited for: a plain function may say that it returns one."""
    is_async = inspect.iscoroutinefunction(function)
    try:
        returned = resolve(function, annotation)
        origin = get_origin(returned) or returned
        if not is_async and isinstance(origin, type) and issubclass(origin, Awaitable):
            returned, is_async = (get_args(returned) or (Any,))[-1], True
        return Codec(returned), is_async
    except UnsupportedType as error:
        problems += [Problem(f"the return type: {problem.fact}", problem.fix) for problem in error.problems]
        return PLAIN, is_async


def _struct(name: str, parameters: Iterable[inspect.Parameter]) -> type[Arguments]:
    """Make the class of the arguments; keyword-only ones are in a subclass, because msgspec knows no ``*``."""
    struct: Any = Arguments
    for by_name in (False, True):
        some = [each for each in parameters if (each.kind is each.KEYWORD_ONLY) is by_name]
        fields: Any = [(p.name, p.annotation, *(() if p.default is p.empty else (p.default,))) for p in some]
        if fields:
            struct = msgspec.defstruct(name, fields, bases=(struct,), kw_only=by_name)
    return cast("type[Arguments]", struct)


def _text(function: Any, signature: inspect.Signature) -> str:
    """Write the signature for people, with annotations as they are written."""

    def written(annotation: Any) -> Any:
        text = annotation if isinstance(annotation, str) else shorten(inspect.formatannotation(annotation))
        return annotation if annotation is signature.empty else AsWritten(text)

    parameters = []
    for each in signature.parameters.values():
        default = each.default if each.default is each.empty else AsWritten(short_repr(each.default, bare=True))
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
