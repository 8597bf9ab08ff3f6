"""Codec: a type, compiled; and when a value has arrived equal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec
from msgspec import inspect as info

from taskcore.contract.codec.annotations import SETS, UnsupportedType, problem_of, problems_of, walk, with_meta
from taskcore.contract.codec.encoding import encode, encode_sorted, fields_of, to_model
from taskcore.contract.codec.text import short_repr

__all__ = ["PLAIN", "Codec", "deep_equal"]


class Codec:
    """A type, compiled: its values to JSON bytes and back. ``encode`` checks nothing.

    :param annotation: the type, with its forward references resolved.
    :raises UnsupportedType: values of this type cannot travel.
    """

    __slots__ = ("_exact", "annotation", "decode", "encode")

    def __init__(self, annotation: Any) -> None:
        try:
            self.annotation = with_meta(annotation)
            inside = list(walk(info.type_info(self.annotation), set()))
            decoder = msgspec.json.Decoder(self.annotation, dec_hook=to_model)
        except UnsupportedType:
            raise
        except Exception as error:  # a class with odd annotations makes msgspec raise anything
            raise UnsupportedType(problem_of(error)) from error
        if problems := [problem for part in inside for problem in problems_of(part)]:
            raise UnsupportedType(*problems)
        has_sets = any(isinstance(part, (*SETS, info.CustomType)) for part in inside)  # models, too, may have them
        self.encode: Callable[[Any], bytes] = encode_sorted if has_sets else encode
        self.decode: Callable[[Any], Any] = decoder.decode
        if any(map(_brings_code, inside)):
            self.decode = partial(_in_own_context, decoder.decode)
        self._exact = any(map(_is_ambiguous, inside))

    def encode_checked(self, value: Any) -> tuple[Any, bytes]:
        """Encode a value; return it as it will arrive, and its bytes. Equal values have equal bytes.

        :raises Exception: whatever it may be, the value does not fit; ``explain`` finds the words.
        """
        data = self.encode(value)
        arrived = self.decode(data)
        again = self.encode(arrived)  # also compared, because 0.5 == Decimal("0.5")
        if again == data and arrived == value and not self._exact:
            return arrived, data
        if deep_equal(value, arrived):
            return arrived, again
        kept = "less: JSON does not hold all of it" if short_repr(arrived) == short_repr(value) else short_repr(arrived)
        raise ValueError(f"{short_repr(value)} would arrive as {kept}")


def _is_ambiguous(part: info.Type) -> bool:
    """Tell whether ``==`` and bytes confuse values of this type with others: IntEnum and 1, zoned and naive times."""
    if isinstance(part, info.EnumType):
        return issubclass(part.cls, (str, int))
    return isinstance(part, (info.NamedTupleType, info.TimeType))


def _brings_code(part: info.Type) -> bool:
    """Tell whether code of users, or the decimal context, takes part when a value of this type is made."""
    made_by = getattr(part, "cls", None)
    return isinstance(part, (info.DecimalType, info.CustomType)) or any(hasattr(made_by, name) for name in HOOKS)


def _in_own_context(decode: Callable[[Any], Any], data: Any) -> Any:
    """Decode in a copy of the context: what is set there reaches nothing else that its caller does."""
    return copy_context().run(decode, data)


HOOKS = ("__post_init__", "__attrs_pre_init__", "__attrs_post_init__")


def deep_equal(sent: Any, arrived: Any) -> bool:
    """Tell whether what arrived was sent: also of its kind, where ``==`` mixes kinds; classes field by field."""
    kind: Any = type(arrived)
    if isinstance(arrived, (dt.datetime, dt.time)):
        return isinstance(sent, kind) and _same_time(sent, arrived)
    if isinstance(arrived, (list, tuple)):
        return isinstance(sent, kind) and len(sent) == len(arrived) and all(map(deep_equal, sent, arrived))
    if kind is dict:
        return (
            isinstance(sent, dict)
            and deep_equal([*sent], [*arrived])
            and deep_equal([*sent.values()], [*arrived.values()])
        )
    if kind in (set, frozenset):
        found = {item: item for item in sent} if isinstance(sent, (set, frozenset)) else {}
        return sent == arrived and all(deep_equal(found.get(item), item) for item in arrived)
    if fields := fields_of(kind):
        return type(sent) is kind and all(deep_equal(getattr(sent, name), getattr(arrived, name)) for name in fields)
    return isinstance(sent, _KINDS.get(kind, kind)) and bool(sent == arrived)


_KINDS = {float: (int, float), bytes: (bytes, bytearray, memoryview)}  # what may become what it equals


def _same_time(sent: Any, arrived: Any) -> bool:
    """Compare clock and offset, not ``==``: in the hour that autumn repeats, zoned datetimes are unequal (PEP 495)."""
    same_clock = bool(sent.replace(tzinfo=None) == arrived.replace(tzinfo=None))
    return same_clock and sent.utcoffset() == arrived.utcoffset() and (sent.tzinfo is None) is (arrived.tzinfo is None)


PLAIN = Codec(Any)  #: plain JSON data
