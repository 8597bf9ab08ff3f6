"""Identity: one text for equal values, in every process and on every Python, and another for values that differ.

    sets, dicts           sorted                                  {"b", "a"} is ["a","b"]
    numbers               by value, whatever their kind           1, 1.0 and Decimal("1.00") are 1; -0.0 is 0
    aware times           by their instant                        12:00+02:00 is 10:00Z
    objects               fields by name, those that have their default left out: a field that is added later, with a
                          default, changes no identity
    everything else       as it travels: texts, bools, UUIDs, dates, durations, bytes, members of an Enum

A value is taken as it arrives: after it was decoded by its type.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from itertools import repeat
from math import isfinite
from typing import Any

import msgspec
from msgspec import inspect as info

from taskcore.contract.codec.encoding import dump_model, encode, fields_of, is_model

__all__ = ["fingerprint_of", "identity_of"]

_decode = msgspec.json.Decoder().decode
_UNKNOWN: Any = object()  #: stands for plain data that is not known
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - clocks are compared after their offset is subtracted
_exact = Decimal.from_float  #: unlike the constructor, it obeys no context
_DIGITS = 20  #: that those integers have at most
_INTEGERS = (-(1 << 63), 1 << 64)  #: what JSON integers hold here; a float beyond equals none of them


def identity_of(value: Any) -> str:
    """Write the identity of a value that came out of a codec."""
    return _write(value, _UNKNOWN)


def fingerprint_of(value: Any) -> str:
    """Compute a short text that stands for the identity of a value."""
    return hashlib.blake2b(identity_of(value).encode(), digest_size=16).hexdigest()


def _write(value: Any, plain: Any) -> str:
    """Write the identity of a value.

    :param plain: the same value as plain data, where that is known: inside models, which have kinds of their own.
    """
    if isinstance(value, Enum):
        return _write(value.value, plain)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, (dt.datetime, dt.time)) and value.utcoffset() is not None:
        return _instant(value)
    if isinstance(value, (set, frozenset)):
        return f"[{','.join(sorted(map(_write, value, _parts(plain, value))))}]"
    if isinstance(value, dict):
        pairs = zip(value.items(), _parts(plain, value), strict=True)
        return _braces((_write(key, _UNKNOWN), _write(item, flat)) for (key, item), flat in pairs)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return f"[{','.join(map(_write, value, _parts(plain, value)))}]"
    kind: Any = type(value)
    if keys := _keys_of(kind):
        return _object(value, keys, _decode(dump_model(value)) if is_model(kind) else {})
    if plain is _UNKNOWN:
        plain = _decode(encode(value))
    return _write(plain, plain) if isinstance(plain, (list, dict)) else encode(plain).decode()


def _parts(plain: Any, value: Collection[Any]) -> Iterable[Any]:
    """Return the plain data of the parts of a value, in the order of the parts."""
    parts: Collection[Any] = plain.values() if isinstance(plain, dict) else plain
    return parts if plain is not _UNKNOWN and len(parts) == len(value) else repeat(_UNKNOWN, len(value))


def _number(value: float | Decimal) -> str:
    """Write a number by its value: equal ones of all kinds alike."""
    if isinstance(value, int):
        return str(int(value))
    whole = _exact(value) if isinstance(value, float) else value
    if not whole.is_finite():
        return f'"{whole}"'
    if whole.adjusted() < _DIGITS and whole == whole.to_integral_value() and _INTEGERS[0] <= whole < _INTEGERS[1]:
        return str(int(whole))
    near = float(value)
    if isfinite(near) and _exact(near) == whole:
        return repr(near)
    sign, digits, exponent = whole.as_tuple()  # a decimal fraction that no float equals
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    return f'"{"-" * sign}{short}e{int(exponent) + len(text) - len(short)}"'


def _instant(value: dt.datetime | dt.time) -> str:
    """Write an aware time by its instant."""
    offset = value.utcoffset() or dt.timedelta()
    if isinstance(value, dt.datetime):
        since = value.replace(tzinfo=None) - _EPOCH - offset
    else:  # an hour before midnight, or after: not the same as that hour of the day
        midnight = _EPOCH.replace(hour=value.hour, minute=value.minute, second=value.second)
        since = midnight.replace(microsecond=value.microsecond) - _EPOCH - offset
    try:
        text = f"{(_EPOCH + since).isoformat()}Z"
    except OverflowError:  # in another time zone it is before the year 1, or after 9999
        text = f"{since // dt.timedelta(microseconds=1)} µs"
    return f'"{text}"'


def _object(value: Any, keys: Mapping[str, str], plain: Mapping[str, Any]) -> str:
    """Write an object: its fields, and the tag that tells it from the others of a union."""
    kind: Any = type(value)
    extra = getattr(value, "__pydantic_extra__", None) or {}
    defaults = _defaults_of(kind)
    pairs = [(encode(name).decode(), _write(item, plain.get(name, _UNKNOWN))) for name, item in extra.items()]
    for name, key in keys.items():
        text = _write(getattr(value, name, None), plain.get(key, _UNKNOWN))
        if text != _default(defaults.get(name)):
            pairs.append((encode(key).decode(), text))
    config = getattr(kind, "__struct_config__", None)
    if config is not None and config.tag is not None:
        pairs.append(("tag", encode(config.tag).decode()))
    return _braces(pairs)


def _default(make: Callable[[], Any] | None) -> str | None:
    """Write the identity of a default; None if there is none, or none that could be made."""
    if make is None:
        return None
    try:
        return identity_of(make())
    except Exception:  # noqa: BLE001 - it is code of the class's author
        return None


def _braces(pairs: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{key}:{text}" for key, text in sorted(pairs)) + "}"


@lru_cache(maxsize=1024)
def _keys_of(kind: Any) -> dict[str, str]:
    """Map the fields that make up a value to their names as they travel; empty for what is no object."""
    fields = getattr(kind, "_fields", ()) if issubclass(kind, tuple) else fields_of(kind)
    names = [name for name in fields if not name.startswith("__pydantic_")]
    return dict(zip(names, getattr(kind, "__struct_encode_fields__", names), strict=True))


@lru_cache(maxsize=1024)
def _defaults_of(kind: Any) -> dict[str, Callable[[], Any]]:
    """Map the fields that have a default to what makes it."""
    return dict(_find_defaults(kind))


def _find_defaults(kind: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    if is_model(kind):
        for name, field in kind.__pydantic_fields__.items():
            if not field.is_required():
                yield name, partial(field.get_default, call_default_factory=True)
        return
    with suppress(Exception):  # a class inside a model may have annotations that only pydantic understands
        for field in getattr(info.type_info(kind), "fields", ()):
            if field.default_factory is not msgspec.NODEFAULT:
                yield field.name, field.default_factory
            elif field.default is not msgspec.NODEFAULT:
                yield field.name, partial(_given, field.default)


def _given(value: Any) -> Any:
    return value
