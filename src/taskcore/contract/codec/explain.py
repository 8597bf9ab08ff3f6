"""Explanations of a value that does not fit its type: every part that does not, each with its path."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from itertools import chain, islice, repeat
from math import isfinite
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from taskcore.contract.codec.codec import Codec
from taskcore.contract.codec.encoding import dump_model, encode, fields_of, is_model
from taskcore.contract.codec.text import describe, first_line, kind_of, short_repr

__all__ = ["explain"]

MOST_LINES = 20  #: a refusal names no more problems of one value than these


def explain(annotation: Any, value: Any, path: str, *, plain: bool = False, values: bool = True) -> list[str]:
    """List every part of a value that does not fit its type: ``order.items[3].price: expected int, got str 'x'``.

    :param plain: the value is plain data read from JSON, where an object is a dict and a date is a str.
    :param values: False: for logs; the lines name the place and the type of a value, and nothing else of it.
    :returns: at most 20 lines; none if the value fits, or if it breaks even this.
    """
    with suppress(Exception):  # values bring their own code: __repr__, __eq__, properties
        codec = _codec_of(annotation)
        reason = _refused(codec, value, plain=plain)
        if reason is None:
            return []
        if isinstance(reason, RecursionError):
            return [f"{path}: refers to itself, or is nested too deeply"]
        target = _narrow(codec.annotation, value)
        with suppress(Exception):  # go down while a part can be blamed, and blame the whole where none can
            parts = _parts(target, value, plain=plain, values=values)
            lines = chain.from_iterable(
                explain(part, item, path + step, plain=plain, values=values) for step, part, item in parts
            )
            models = _model_lines(target, value, path, plain=plain, values=values)
            if found := list(islice(chain(lines, models), MOST_LINES)):
                return found
        if not values:
            return [f"{path}: {_public_blame(codec.annotation, target, value, reason)}"]
        return [f"{path}: {_blame(codec.annotation, target, value, reason, plain=plain)}"]
    return []


def _refused(codec: Codec, value: Any, *, plain: bool) -> Exception | None:
    try:
        codec.decode(encode(value)) if plain else codec.encode_checked(value)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


_cached_codec = lru_cache(maxsize=256)(Codec)  # a list of a thousand wrong items has one type


def _codec_of(annotation: Any) -> Codec:
    try:
        return _cached_codec(annotation)
    except TypeError:  # Annotated with something that cannot be hashed
        return Codec(annotation)


def _narrow(annotation: Any, value: Any) -> Any:
    """Choose the alternative of a union that the value was probably meant for."""
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


def _parts(annotation: Any, value: Any, *, plain: bool, values: bool) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of a value: a step of the path, the type, the part."""
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if isinstance(value, dict) and origin in (Any, dict, Mapping, MutableMapping):
        key_type, value_type = args or (str, Any)
        for number, (key, item) in enumerate(value.items(), 1):
            step = f"[{short_repr(key, bare=True) if values else f'key {number}'}]"
            if not plain:  # in JSON every key is a str
                yield f"{step} (the key)", key_type, key
            yield step, value_type, item
    elif isinstance(value, (list, tuple, set, frozenset)) and (args or origin in (Any, list)):
        kinds = args if origin is tuple and args[-1] is not ... else repeat(args[0] if args else Any)
        yield from ((f"[{i}]", kind, item) for i, (kind, item) in enumerate(zip(kinds, value, strict=False)))
    elif not is_model(origin):
        generics = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
        hints = get_type_hints(origin, include_extras=True) if isinstance(origin, type) else {}
        for name, item in _items(origin, value, plain=plain):
            hint: Any = generics.get(hints[name], hints[name])
            hint = get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint
            inner = getattr(hint, "__parameters__", ()) if get_origin(hint) else ()
            yield f".{name}", hint[tuple(generics.get(each, Any) for each in inner)] if inner else hint, item


def _items(cls: Any, value: Any, *, plain: bool) -> Iterable[tuple[str, Any]]:
    """Yield the fields of an object by name: attributes, or, of plain data, the items of a dict or a list."""
    names = getattr(cls, "_fields", None) or fields_of(cls)
    if isinstance(value, dict) and typing.is_typeddict(cls):
        return ((name, item) for name, item in value.items() if name in cls.__annotations__)
    if isinstance(value, (list, tuple)):
        return zip(names, value, strict=False)
    if plain:
        keys = getattr(cls, "__struct_encode_fields__", names)
        return ((name, value[key]) for name, key in zip(names, keys, strict=True) if key in value)
    return ((name, getattr(value, name)) for name in names) if _is_instance(value, cls) else ()


def _model_lines(model: Any, value: Any, path: str, *, plain: bool, values: bool) -> Iterator[str]:
    """Yield the problems that pydantic finds in a model: all of them at once."""
    if not is_model(model) or not (plain or isinstance(value, model)):
        return
    data = encode(value) if plain else dump_model(value)
    try:
        model.model_validate_json(data, strict=True, by_alias=True, by_name=True)
    except sys.modules["pydantic"].ValidationError as error:
        names = None if values else set(_names_in(model.model_json_schema()))
        for each in error.errors(include_url=False):
            steps = [step for step in each["loc"] if names is None or isinstance(step, int) or step in names]
            where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
            if names is not None:
                yield f"{path}{where}: refused: {each['type']}, got {kind_of(each['input'])}"
                continue
            got = "None (or nan, which JSON does not have)" if each["input"] is None else short_repr(each["input"])
            yield f"{path}{where}: {first_line(each['msg'])}, got {got}"


def _names_in(schema: Any) -> Iterator[str]:
    """Yield the names of all fields in a JSON schema; other steps of a path are keys, and so values."""
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _names_in(inner)


def _public_blame(annotation: Any, target: Any, value: Any, reason: Exception) -> str:
    """Explain what is wrong without the value, and without texts in which a class of the user's may repeat it."""
    head = str(reason).partition(" - at `$")[0]
    expected = f"expected {describe(annotation)}, got {kind_of(value)}"
    if not isinstance(reason, msgspec.ValidationError):
        return expected if kind_of(value) != describe(target) else f"it would not arrive equal, got {kind_of(value)}"
    if head.startswith(("Expected `", "Object missing required field")) and ", got `" not in head:
        return f"{first_line(head)}, got {kind_of(value)}"
    return expected


def _blame(annotation: Any, target: Any, value: Any, reason: Exception, *, plain: bool) -> str:
    """Explain what is wrong with the value itself; ``reason`` is the error of encoding or decoding it."""
    head, _, place = str(reason).partition(" - at `$")
    expected = f"expected {describe(annotation)}, got {short_repr(value)}"
    if isinstance(value, float) and not isfinite(value):
        return f"{value} cannot travel, JSON has neither nan nor infinity"
    if isinstance(value, Decimal) and value.is_nan():
        return f"{value} cannot travel, it equals nothing"
    if isinstance(reason, UnicodeEncodeError):
        return f"{short_repr(value)} is not text, it holds half of a surrogate pair"
    known = _is_instance(value, get_origin(target) or target)
    if not isinstance(reason, msgspec.ValidationError):
        return f"{type(reason).__name__}: {head}" if plain else head if known else expected
    if head.startswith("Expected `") and ", got `" in head:
        return f"{first_line(head)}, at {place.rstrip('`')}" if place else expected
    if head.startswith("Expected `") or plain or (known and not head.startswith("Invalid ")):
        return f"{first_line(head)}, got {short_repr(value)}"
    return expected
