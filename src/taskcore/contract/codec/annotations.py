"""From an annotation to a type whose values can travel, or to what is wrong with it."""

from __future__ import annotations

import inspect
import operator
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import reduce
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as info

from taskcore.contract.codec.encoding import is_model
from taskcore.contract.codec.text import first_line, shorten

__all__ = ["SETS", "Problem", "UnsupportedType", "is_text", "problem_of", "problems_of", "resolve", "walk", "with_meta"]

_TRAVELS = "plain data, a dataclass, an attrs class, a msgspec.Struct, a TypedDict or a pydantic model"


class Problem(NamedTuple):
    """One thing that is wrong with a signature, and what to do about it."""

    fact: str
    fix: str


class UnsupportedType(Exception):
    """Values of this type cannot travel; ``problems`` says why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.fact for problem in problems))
        self.problems = problems


def resolve(function: Any, annotation: Any) -> Any:
    """Resolve the type that an annotation of a function names; text is looked up where the function is defined.

    :raises UnsupportedType: it names none.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    plain = inspect.unwrap(function)
    names = {each.__name__: each for each in getattr(plain, "__type_params__", ())}
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        with suppress(ValueError):  # not bound yet
            names[name] = cell.cell_contents

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return get_type_hints(holder, plain.__globals__, names, include_extras=True)["it"]
    except Exception as error:  # text can say anything
        raise UnsupportedType(problem_of(error)) from error


_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_HARMLESS = ("Strict", "Doc", "DocInfo", "Unit", "AllowInfNan")  # what they ask for holds anyway, or is for readers


def with_meta(annotation: Any, seen: tuple[Any, ...] = ()) -> Any:
    """Return the type with constraints that msgspec checks, and without type aliases and NewTypes."""
    if isinstance(annotation, typing.NewType):
        return with_meta(annotation.__supertype__, seen)
    if type(annotation).__name__ == "TypeAliasType":  # type X = …, since Python 3.12; it may stand in its own value
        return annotation if annotation in seen else with_meta(annotation.__value__, (*seen, annotation))
    origin, before = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metas = [meta for each in before[1:] for meta in _metas(each)]
        return Annotated[(with_meta(before[0], seen), *metas)] if metas else with_meta(before[0], seen)
    args = before if origin is Literal else tuple(with_meta(arg, seen) for arg in before)
    if all(map(operator.is_, args, before)):
        return annotation
    if origin in (Union, types.UnionType):
        return reduce(operator.or_, args)
    return annotation.copy_with(args) if hasattr(annotation, "copy_with") else origin[args]


def _metas(meta: Any) -> Iterator[Any]:
    """Translate a constraint of annotated_types or pydantic into msgspec's."""
    if type(meta).__module__.partition(".")[0] not in ("annotated_types", "pydantic"):
        yield meta
    elif hasattr(meta, "metadata"):  # pydantic.Field()
        if meta.alias or meta.discriminator or not meta.is_required():
            raise UnsupportedType(
                Problem("Field() may only hold constraints here", "put the default into the signature")
            )
        yield from chain.from_iterable(map(_metas, meta.metadata))
    elif isinstance(meta, Iterable):  # annotated_types.Interval and Len, pydantic's StringConstraints
        yield from chain.from_iterable(map(_metas, meta))
    elif type(meta).__name__ not in _HARMLESS:
        known = {name: value for name in _CONSTRAINTS if (value := getattr(meta, name, None)) is not None}
        asked = {name for name, value in getattr(meta, "__dict__", known).items() if value is not None}
        if not known or asked - known.keys():
            raise UnsupportedType(
                Problem(f"{meta!r} cannot be checked here", "check it in the function, or in a pydantic model")
            )
        yield msgspec.Meta(**known)


# ── types that cannot travel ─────────────────────────────────────────────────────────────────────

SETS = (info.SetType, info.FrozenSetType)
_OBJECTS = (info.StructType, info.DataclassType, info.TypedDictType, info.NamedTupleType, info.CustomType)
_NO_KEYS = (info.NoneType, info.BoolType, info.CollectionType, info.TupleType, info.DictType, *_OBJECTS)
_UNHASHABLE = (info.ListType, info.SetType, info.DictType, info.TypedDictType, info.ByteArrayType)


def walk(part: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a type and every type inside it, once each: a type may contain itself."""
    if id(part) in seen:
        return
    seen.add(id(part))
    yield part
    for inside in msgspec.structs.astuple(part):
        for child in inside if isinstance(inside, tuple) else (inside,):
            if isinstance(child, (info.Type, info.Field)):
                yield from walk(child, seen)


def problems_of(part: Any) -> Iterator[Problem]:
    """Yield why values of this type cannot travel, whatever is inside of it."""
    if isinstance(part, info.CustomType) and not is_model(part.cls):
        yield Problem(f"{part.cls.__qualname__} cannot travel as JSON", f"use {_TRAVELS}")
    elif isinstance(part, (info.RawType, info.ExtType)):
        yield Problem("raw bytes of a format cannot travel as JSON", "use bytes, or what is in them")
    elif isinstance(part, info.DataclassType) and hasattr(part.cls, "__pydantic_validator__"):
        yield Problem(
            f"{part.cls.__name__} is a pydantic dataclass, whose rules would be skipped", "make it a BaseModel"
        )
    elif isinstance(part, info.DataclassType) and (name := _private_field(part)):
        yield Problem(
            f"{part.cls.__name__} needs its field {name}, and private fields do not travel", "rename the field"
        )
    elif isinstance(part, info.DictType) and any(isinstance(key, _NO_KEYS) for key in _options(part.key_type)):
        yield Problem("dict keys of this type cannot travel as JSON", "use str, number, Enum, UUID or date keys")
    elif isinstance(part, SETS) and not all(map(_is_hashable, _options(part.item_type))):
        yield Problem("items of this type cannot be in a set", "use a list, or frozen items")


def _private_field(part: info.DataclassType) -> str | None:
    return next((field.name for field in part.fields if field.name.startswith("_") and field.required), None)


def is_text(annotation: Any) -> bool:
    """Tell whether all values of a type are texts, or None."""
    parts = _options(info.type_info(annotation))
    texts = [
        isinstance(part, info.StrType) or _are_texts(part) for part in parts if not isinstance(part, info.NoneType)
    ]
    return bool(texts) and all(texts)


def _are_texts(part: Any) -> bool:
    return isinstance(part, info.LiteralType) and all(isinstance(value, str) for value in part.values)


def _options(part: Any) -> tuple[Any, ...]:
    return part.types if isinstance(part, info.UnionType) else (part,)


def _is_hashable(part: Any) -> bool:
    return not isinstance(part, _UNHASHABLE) and getattr(getattr(part, "cls", int), "__hash__", None) is not None


def problem_of(error: Exception) -> Problem:
    """Translate an error of msgspec about a type, with a fix."""
    text, fix = shorten(first_line(error)), f"use {_TRAVELS}"
    if isinstance(error, NameError):
        fix = "import it for real, not only under TYPE_CHECKING, and define it at module level, above the function"
    elif isinstance(error, RecursionError):
        fix = "a type alias cannot contain itself: use a dataclass, a msgspec.Struct, or Any"
    elif "custom type" in text:
        fix = "a pydantic model can only be in a union with None: make the union a field of another model"
    elif text.startswith("type unions"):
        fix = "use msgspec.Structs with tags: class A(Struct, tag=True); or one class with a Literal field; "
        fix += "or a parameter for each"
    elif text.startswith("can only set"):
        fix = "put it on the int, float, str or list that it is meant for: Annotated[int, …] | None"
    return Problem(text, fix)
