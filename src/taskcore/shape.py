"""Shapes: a type compiled to JSON and back, and the words for a value that does not fit it.

One rule decides what fits: *a value fits a type if it arrives equal*. So the check is the journey itself, and it cannot
overlook a case: a tuple for a list, a nan, a datetime for a str, a wrong field deep inside a dataclass, an attribute
that JSON would lose: none of them comes out as it went in.

    encode → decode by the type → equal, and equal bytes again ──────▶ it fits    (all in C)
               │                    └ no → same(sent, arrived) ──yes─▶ it fits    an int for a float, a class without ==
               │                             └ no ─┐
               └ an error ─────────────────────────┴─▶ explain(): every part that does not fit, each with its path

Nothing is bent to fit. Two things become what they equal: an int for a float, a subclass of str, int, … its base.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache, reduce
from itertools import chain, islice, repeat
from math import isfinite
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as info

__all__ = ["Flaw", "NoShape", "Shape", "describe", "explain", "resolve", "same", "schema_of", "shorten", "show", "tidy"]

MOST_LINES = 20  #: a refusal names no more problems of one value than these
MOST_CHARACTERS = 60  #: of a value
_TRAVELS = "plain data, a dataclass, an attrs class, a msgspec.Struct, a TypedDict or a pydantic model"


class Flaw(NamedTuple):
    """One thing that is wrong with a signature, and what to do about it."""

    fact: str
    fix: str


class NoShape(Exception):
    """Values of this type cannot travel; ``flaws`` says why."""

    def __init__(self, *flaws: Flaw) -> None:
        super().__init__("; ".join(flaw.fact for flaw in flaws))
        self.flaws = flaws


class Shape:
    """A type, compiled: its values to JSON bytes and back. ``encode`` checks nothing, it is for admitted values.

    :param annotation: the type, with its forward references resolved.
    :raises NoShape: values of this type cannot travel.
    """

    __slots__ = ("_exact", "annotation", "decode", "encode")

    def __init__(self, annotation: Any) -> None:
        try:
            self.annotation = _with_meta(annotation)
            inside = list(_walk(info.type_info(self.annotation), set()))
            decoder = msgspec.json.Decoder(self.annotation, dec_hook=_to_model)
        except NoShape:
            raise
        except Exception as error:  # a class with odd annotations makes msgspec raise anything
            raise NoShape(_flaw_of(error)) from error
        if flaws := [flaw for part in inside for flaw in _flaws(part)]:
            raise NoShape(*flaws)
        has_sets = any(isinstance(part, (*_SETS, info.CustomType)) for part in inside)  # models, too, may have them
        self.encode: Callable[[Any], bytes] = _encode_sorted if has_sets else _encode
        self.decode: Callable[[Any], Any] = decoder.decode
        self._exact = any(map(_is_ambiguous, inside))

    def admit(self, value: Any) -> tuple[Any, bytes]:
        """The value as it will arrive, and its bytes; equal values have equal bytes.

        :raises Exception: whatever it may be, the value does not fit; ``explain`` finds the words.
        """
        data = self.encode(value)
        arrived = self.decode(data)
        again = self.encode(arrived)  # also compared, because 0.5 == Decimal("0.5")
        if again == data and arrived == value and not self._exact:
            return arrived, data
        if same(value, arrived):
            return arrived, again
        kept = "less: JSON does not hold all of it" if show(arrived) == show(value) else show(arrived)
        raise ValueError(f"{show(value)} would arrive as {kept}")


def same(sent: Any, arrived: Any) -> bool:
    """Whether what arrived is what was sent: also of its kind, where ``==`` mixes kinds; classes field by field."""
    kind: Any = type(arrived)
    if isinstance(arrived, (dt.datetime, dt.time)):
        return isinstance(sent, kind) and _same_time(sent, arrived)
    if isinstance(arrived, (list, tuple)):
        return isinstance(sent, kind) and len(sent) == len(arrived) and all(map(same, sent, arrived))
    if kind is dict:
        return isinstance(sent, dict) and same([*sent], [*arrived]) and same([*sent.values()], [*arrived.values()])
    if kind in (set, frozenset):
        found = {item: item for item in sent} if isinstance(sent, (set, frozenset)) else {}
        return sent == arrived and all(same(found.get(item), item) for item in arrived)
    if fields := _fields(kind):
        return type(sent) is kind and all(same(getattr(sent, name), getattr(arrived, name)) for name in fields)
    return isinstance(sent, _KINDS.get(kind, kind)) and bool(sent == arrived)


_KINDS = {float: (int, float), bytes: (bytes, bytearray, memoryview)}  # what may become what it equals


def _same_time(sent: Any, arrived: Any) -> bool:
    """Not ``==``: in the hour that autumn repeats, a zoned datetime equals nothing in another zone (PEP 495)."""
    same_clock = bool(sent.replace(tzinfo=None) == arrived.replace(tzinfo=None))
    return same_clock and sent.utcoffset() == arrived.utcoffset() and (sent.tzinfo is None) is (arrived.tzinfo is None)


@lru_cache(maxsize=1024)
def _fields(cls: Any) -> tuple[str, ...]:
    """The fields that make up a value, for the kinds of classes that have fields."""
    if names := getattr(cls, "__struct_fields__", None):
        return tuple(names)
    if _is_model(cls):
        return (*cls.__pydantic_fields__, "__pydantic_extra__", "__pydantic_private__")
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls) if field.compare)
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()) if field.eq)


def _is_ambiguous(part: info.Type) -> bool:
    """Whether ``==`` and bytes cannot tell values of this type from others: an IntEnum and 1, zoned and naive times."""
    if isinstance(part, info.EnumType):
        return issubclass(part.cls, (str, int))
    return isinstance(part, (info.NamedTupleType, info.TimeType))


# ── there and back, for what msgspec does not know itself ────────────────────────────────────────


def _from_object(value: Any) -> Any:
    """What to encode for an object that msgspec does not know: a pydantic model, a subclass of a plain type."""
    if _is_model(type(value)):
        return msgspec.Raw(_dump_model(value))
    plain: Any = next((each for each in (str, int, float, bytes, Decimal) if isinstance(value, each)), None)
    if plain and not isinstance(value, bool):  # a bool comes here as the key of a dict
        return plain(value)  # a subclass that says something else here will not arrive equal
    if isinstance(value, (dt.date, dt.time)):  # datetimes are dates
        return value.isoformat()
    raise TypeError(f"{type(value).__qualname__} cannot travel as JSON")


def _dump_model(model: Any) -> bytes:
    text: str = model.model_dump_json(round_trip=True, by_alias=False, warnings=False)
    return text.encode()


def _to_model(cls: Any, plain: Any) -> Any:
    """The pydantic model in plain data: fields by name or alias, nothing coerced."""
    return cls.model_validate_json(_encode(plain), strict=True, by_alias=True, by_name=True)


def _is_model(cls: Any) -> bool:
    pydantic = sys.modules.get("pydantic")  # who has a model has imported it, so we never have to
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def schema_of(cls: Any, shared: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a pydantic model; the definitions that it needs are added to ``shared``."""
    prefix = f"{cls.__qualname__}."
    schema: dict[str, Any] = cls.model_json_schema(by_alias=False, ref_template=f"#/$defs/{prefix}{{model}}")
    shared |= {prefix + name: definition for name, definition in schema.pop("$defs", {}).items()}
    return schema


_encode = msgspec.json.Encoder(enc_hook=_from_object).encode
_decode = msgspec.json.Decoder().decode


def _encode_sorted(value: Any) -> bytes:
    """Equal sets as equal bytes, in every process; dicts keep their order."""
    data = _encode(value)
    return _encode(_sorted(value, _decode(data))) if b"[" in data else data


def _sorted(value: Any, plain: Any) -> Any:
    """The plain form of a value, with the items of sets in an order of their own."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(_sorted, value, plain), key=_encode)
    if isinstance(value, (list, tuple)):
        return list(map(_sorted, value, plain))
    if isinstance(value, dict):
        return dict(zip(plain, map(_sorted, value.values(), plain.values()), strict=True))
    if not isinstance(plain, dict):
        return plain
    kind: Any = type(value)
    names = {key: key for key in plain}
    names |= zip(getattr(kind, "__struct_encode_fields__", ()), _fields(kind), strict=False)
    return {key: _sorted(getattr(value, names[key], None), item) for key, item in plain.items()}


# ── from an annotation to a type ─────────────────────────────────────────────────────────────────


def resolve(function: Any, annotation: Any) -> Any:
    """The type that an annotation of a function names; text is looked up where the function is defined.

    :raises NoShape: it names none.
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
        raise NoShape(_flaw_of(error)) from error


_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_HARMLESS = ("Strict", "Doc", "DocInfo", "Unit", "AllowInfNan")  # what they ask for holds anyway, or is for readers


def _with_meta(annotation: Any, seen: tuple[Any, ...] = ()) -> Any:
    """The same type with constraints that msgspec checks; type aliases and NewTypes are what they stand for."""
    if isinstance(annotation, typing.NewType):
        return _with_meta(annotation.__supertype__, seen)
    if type(annotation).__name__ == "TypeAliasType":  # type X = …, since Python 3.12; it may stand in its own value
        return annotation if annotation in seen else _with_meta(annotation.__value__, (*seen, annotation))
    origin, before = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metas = [meta for each in before[1:] for meta in _metas(each)]
        return Annotated[(_with_meta(before[0], seen), *metas)] if metas else _with_meta(before[0], seen)
    args = before if origin is Literal else tuple(_with_meta(arg, seen) for arg in before)
    if all(map(operator.is_, args, before)):
        return annotation
    if origin in (Union, types.UnionType):
        return reduce(operator.or_, args)
    return annotation.copy_with(args) if hasattr(annotation, "copy_with") else origin[args]


def _metas(meta: Any) -> Iterator[Any]:
    """A constraint of annotated_types or pydantic, as msgspec's."""
    if type(meta).__module__.partition(".")[0] not in ("annotated_types", "pydantic"):
        yield meta
    elif hasattr(meta, "metadata"):  # pydantic.Field()
        if meta.alias or meta.discriminator or not meta.is_required():
            raise NoShape(Flaw("Field() may only hold constraints here", "put the default into the signature"))
        yield from chain.from_iterable(map(_metas, meta.metadata))
    elif isinstance(meta, Iterable):  # annotated_types.Interval and Len, pydantic's StringConstraints
        yield from chain.from_iterable(map(_metas, meta))
    elif type(meta).__name__ not in _HARMLESS:
        known = {name: value for name in _CONSTRAINTS if (value := getattr(meta, name, None)) is not None}
        asked = {name for name, value in getattr(meta, "__dict__", known).items() if value is not None}
        if not known or asked - known.keys():
            raise NoShape(Flaw(f"{meta!r} cannot be checked here", "check it in the function, or in a pydantic model"))
        yield msgspec.Meta(**known)


# ── types that cannot travel ─────────────────────────────────────────────────────────────────────

_SETS = (info.SetType, info.FrozenSetType)
_OBJECTS = (info.StructType, info.DataclassType, info.TypedDictType, info.NamedTupleType, info.CustomType)
_NO_KEYS = (info.NoneType, info.BoolType, info.CollectionType, info.TupleType, info.DictType, *_OBJECTS)
_UNHASHABLE = (info.ListType, info.SetType, info.DictType, info.TypedDictType, info.ByteArrayType)


def _walk(part: Any, seen: set[int]) -> Iterator[Any]:
    """A type and every type inside it, once each: a type may contain itself."""
    if id(part) in seen:
        return
    seen.add(id(part))
    yield part
    for inside in msgspec.structs.astuple(part):
        for child in inside if isinstance(inside, tuple) else (inside,):
            if isinstance(child, (info.Type, info.Field)):
                yield from _walk(child, seen)


def _flaws(part: Any) -> Iterator[Flaw]:
    if isinstance(part, info.CustomType) and not _is_model(part.cls):
        yield Flaw(f"{part.cls.__qualname__} cannot travel as JSON", f"use {_TRAVELS}")
    elif isinstance(part, (info.RawType, info.ExtType)):
        yield Flaw("raw bytes of a format cannot travel as JSON", "use bytes, or what is in them")
    elif isinstance(part, info.DataclassType) and hasattr(part.cls, "__pydantic_validator__"):
        yield Flaw(f"{part.cls.__name__} is a pydantic dataclass, whose rules would be skipped", "make it a BaseModel")
    elif isinstance(part, info.DictType) and any(isinstance(key, _NO_KEYS) for key in _options(part.key_type)):
        yield Flaw("dict keys of this type cannot travel as JSON", "use str, number, Enum, UUID or date keys")
    elif isinstance(part, _SETS) and not all(map(_is_hashable, _options(part.item_type))):
        yield Flaw("items of this type cannot be in a set", "use a list, or frozen items")


def _options(part: Any) -> tuple[Any, ...]:
    return part.types if isinstance(part, info.UnionType) else (part,)


def _is_hashable(part: Any) -> bool:
    return not isinstance(part, _UNHASHABLE) and getattr(getattr(part, "cls", int), "__hash__", None) is not None


def _flaw_of(error: Exception) -> Flaw:
    """What msgspec has against a type, with a fix."""
    text, fix = shorten(tidy(error)), f"use {_TRAVELS}"
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
    return Flaw(text, fix)


# ── the words for a value that does not fit ──────────────────────────────────────────────────────


def explain(annotation: Any, value: Any, path: str, *, wire: bool = False) -> list[str]:
    """Every part of a value that does not fit its type: ``order.items[3].price: expected int, got str 'x'``.

    :param wire: the value is plain data read from JSON, where an object is a dict and a date is a str.
    :returns: at most 20 lines; none if the value fits, or if it breaks even this.
    """
    with suppress(Exception):  # values bring their own code: __repr__, __eq__, properties
        shape = _shape(annotation)
        reason = _refused(shape, value, wire=wire)
        if reason is None:
            return []
        if isinstance(reason, RecursionError):
            return [f"{path}: refers to itself, or is nested too deeply"]
        target = _narrow(shape.annotation, value)
        with suppress(Exception):  # go down while a part can be blamed, and blame the whole where none can
            parts = _parts(target, value, wire=wire)
            lines = chain.from_iterable(explain(part, item, path + step, wire=wire) for step, part, item in parts)
            if found := list(islice(chain(lines, _model_lines(target, value, path, wire=wire)), MOST_LINES)):
                return found
        return [f"{path}: {_blame(shape.annotation, target, value, reason, wire=wire)}"]
    return []


def _refused(shape: Shape, value: Any, *, wire: bool) -> Exception | None:
    try:
        shape.decode(_encode(value)) if wire else shape.admit(value)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


_kept_shape = lru_cache(maxsize=256)(Shape)  # a list of a thousand wrong items has one type


def _shape(annotation: Any) -> Shape:
    try:
        return _kept_shape(annotation)
    except TypeError:  # Annotated with something that cannot be hashed
        return Shape(annotation)


def _narrow(annotation: Any, value: Any) -> Any:
    """Of a union, the alternative that the value was probably meant for."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _narrow(args[0], value)
    if origin not in (Union, types.UnionType):
        return annotation
    some = [arg for arg in args if arg is not types.NoneType]
    alike = some if len(some) == 1 else [arg for arg in some if _is_instance(value, get_origin(arg) or arg)]
    return _narrow(alike[0], value) if len(alike) == 1 else annotation


def _is_instance(value: Any, cls: Any) -> bool:
    return cls is not Any and isinstance(cls, type) and isinstance(value, dict if typing.is_typeddict(cls) else cls)


def _parts(annotation: Any, value: Any, *, wire: bool) -> Iterator[tuple[str, Any, Any]]:
    """What the value consists of: a step of the path, the type, the part."""
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if isinstance(value, dict) and origin in (Any, dict, Mapping, MutableMapping):
        key_type, value_type = args or (str, Any)
        for key, item in value.items():
            if not wire:  # on the wire every key is a str
                yield f"[{show(key, bare=True)}] (the key)", key_type, key
            yield f"[{show(key, bare=True)}]", value_type, item
    elif isinstance(value, (list, tuple, set, frozenset)) and (args or origin in (Any, list)):
        kinds = args if origin is tuple and args[-1] is not ... else repeat(args[0] if args else Any)
        yield from ((f"[{i}]", kind, item) for i, (kind, item) in enumerate(zip(kinds, value, strict=False)))
    elif not _is_model(origin):
        generics = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
        hints = get_type_hints(origin, include_extras=True) if isinstance(origin, type) else {}
        for name, item in _items(origin, value, wire=wire):
            hint: Any = generics.get(hints[name], hints[name])
            hint = get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint
            inner = getattr(hint, "__parameters__", ()) if get_origin(hint) else ()
            yield f".{name}", hint[tuple(generics.get(each, Any) for each in inner)] if inner else hint, item


def _items(cls: Any, value: Any, *, wire: bool) -> Iterable[tuple[str, Any]]:
    """The fields of an object by name: attributes, or, on the wire, the items of a dict or a list."""
    names = getattr(cls, "_fields", None) or _fields(cls)
    if isinstance(value, dict) and typing.is_typeddict(cls):
        return ((name, item) for name, item in value.items() if name in cls.__annotations__)
    if isinstance(value, (list, tuple)):
        return zip(names, value, strict=False)
    if wire:
        keys = getattr(cls, "__struct_encode_fields__", names)
        return ((name, value[key]) for name, key in zip(names, keys, strict=True) if key in value)
    return ((name, getattr(value, name)) for name in names) if _is_instance(value, cls) else ()


def _model_lines(model: Any, value: Any, path: str, *, wire: bool) -> Iterator[str]:
    """What pydantic says about a model, which is everything at once."""
    if not _is_model(model) or not (wire or isinstance(value, model)):
        return
    data = _encode(value) if wire else _dump_model(value)
    try:
        model.model_validate_json(data, strict=True, by_alias=True, by_name=True)
    except sys.modules["pydantic"].ValidationError as error:
        for each in error.errors(include_url=False):
            where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in each["loc"])
            got = "None (or nan, which JSON does not have)" if each["input"] is None else show(each["input"])
            yield f"{path}{where}: {tidy(each['msg'])}, got {got}"


def _blame(annotation: Any, target: Any, value: Any, reason: Exception, *, wire: bool) -> str:
    """What is wrong with this very value; ``reason`` is what its journey ended with."""
    head, _, place = str(reason).partition(" - at `$")
    expected = f"expected {describe(annotation)}, got {show(value)}"
    if isinstance(value, float) and not isfinite(value):
        return f"{value} cannot travel, JSON has neither nan nor infinity"
    if isinstance(value, Decimal) and value.is_nan():
        return f"{value} cannot travel, it equals nothing"
    if isinstance(reason, UnicodeEncodeError):
        return f"{show(value)} is not text, it holds half of a surrogate pair"
    known = _is_instance(value, get_origin(target) or target)
    if not isinstance(reason, msgspec.ValidationError):
        return f"{type(reason).__name__}: {head}" if wire else head if known else expected
    if head.startswith("Expected `") and ", got `" in head:
        return f"{tidy(head)}, at {place.rstrip('`')}" if place else expected
    if head.startswith("Expected `") or wire or (known and not head.startswith("Invalid ")):
        return f"{tidy(head)}, got {show(value)}"
    return expected


def tidy(error: object) -> str:
    """The first line of an error's text, in the tone of the house."""
    text = type(error).__name__
    with suppress(Exception):  # an error of the user's may not even have a text
        text = str(error).splitlines()[0].replace("`", "")
    return text[:1].lower() + text[1:]


def describe(annotation: Any) -> str:
    """A type as a person writes it: ``list[Order] | None``."""
    if get_origin(annotation) is Annotated:
        return describe(get_args(annotation)[0])
    if annotation in (Any, types.NoneType):
        return "plain JSON data" if annotation is Any else "None"
    is_class = isinstance(annotation, type) and not get_args(annotation)
    return shorten(annotation.__qualname__ if is_class else str(annotation))


def shorten(text: str) -> str:
    """The text of a type without the names of modules, except in the quotes of a Literal."""
    return re.sub(r"(?<!['\"\w.>])[\w.<>]+\.(?=\w)", "", text)


def show(value: Any, *, bare: bool = False) -> str:
    """A value with its kind, such as ``str 'two'``, in about 60 characters; never raises.

    :param bare: without the kind.
    """
    kind = type(value).__name__
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - it is somebody else's code
        text = f"<{kind} whose repr() fails>"
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "…"
    return text if bare or value is None or text.startswith((kind, "<", "datetime.")) else f"{kind} {text}"
