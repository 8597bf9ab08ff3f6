"""Errors that travel: a declared class, compiled, to JSON and back."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Any, get_type_hints

import msgspec

from taskcore.contract.codec import PLAIN, Codec, UnsupportedType, deep_equal

__all__ = ["ErrorCodec", "ErrorPayload"]


class ErrorPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as JSON: what its class is called with, by name if that can be known, else by position."""

    type: str  #: the name of the class, as `raises` knows it
    fields: dict[str, msgspec.Raw] = {}
    positional: int = 0  #: how many of the fields were given by position, which decides what ``args`` is
    args: tuple[msgspec.Raw, ...] = ()


class ErrorCodec:
    """An error class, compiled: an instance to its payload and back.

    What ``__init__`` takes has the type that it says there, or is plain JSON data. An attribute that is called like a
    parameter is taken for what was given, as in dataclasses; where that rebuilds no equal error, ``args`` is.
    """

    __slots__ = ("cls", "codecs")

    def __init__(self, cls: type[BaseException]) -> None:
        self.cls = cls
        self.codecs: dict[str, Codec] = {}
        with suppress(Exception):  # an __init__ that cannot be read: then ``args`` alone has to do
            hints = get_type_hints(cls.__init__, include_extras=True)
            for each in list(inspect.signature(cls.__init__).parameters.values())[1:]:
                if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
                    self.codecs[each.name] = PLAIN
                    with suppress(UnsupportedType):
                        self.codecs[each.name] = Codec(hints.get(each.name, Any))

    def pack(self, error: BaseException) -> bytes | None:
        """Encode an error as the first payload that rebuilds an equal one."""
        for make in (partial(self._by_name, len(error.args)), partial(self._by_name, 0), self._by_position):
            with suppress(Exception):  # errors bring their own code, like arguments
                data = msgspec.json.encode(make(error))
                back = self.rebuild(msgspec.json.decode(data, type=ErrorPayload))
                names = [name for name in self.codecs if hasattr(error, name)]
                if deep_equal(error.args, back.args) and all(
                    deep_equal(getattr(error, n), getattr(back, n)) for n in names
                ):
                    return data
        return None

    def _by_name(self, positional: int, error: BaseException) -> ErrorPayload:
        fields = {
            name: msgspec.Raw(codec.encode_checked(getattr(error, name))[1]) for name, codec in self.codecs.items()
        }
        return ErrorPayload(self.cls.__qualname__, fields, min(positional, len(fields)))

    def _by_position(self, error: BaseException) -> ErrorPayload:
        args = tuple(msgspec.Raw(codec.encode_checked(arg)[1]) for codec, arg in self._paired(error.args))
        return ErrorPayload(self.cls.__qualname__, args=args)

    def rebuild(self, payload: ErrorPayload) -> BaseException:
        """Rebuild the error of a payload; raises anything if that is impossible."""
        fields = {name: self.codecs[name].decode(raw) for name, raw in payload.fields.items()}
        first = [fields.pop(name) for name in list(fields)[: payload.positional]]
        return self.cls(*first, *(codec.decode(raw) for codec, raw in self._paired(payload.args)), **fields)

    def _paired(self, args: Iterable[Any]) -> Iterable[tuple[Codec, Any]]:
        return zip(chain(self.codecs.values(), repeat(PLAIN)), args, strict=False)
