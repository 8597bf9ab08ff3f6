"""A task whose arguments are of many kinds, and a program that prints the identities of payloads.

python -m tests.support.identities < payloads       one line for each: fingerprint and key
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic

from taskcore import Router

__all__ = ["Color", "Form", "Mark", "Note", "Pair", "Point", "Tagged", "identity", "router", "work"]


class Color(Enum):
    """A choice."""

    RED = "red"
    CRIMSON = "red"  # noqa: PIE796 - another name of RED
    BLUE = "blue"


class Pair(NamedTuple):
    """A tuple with names."""

    left: int
    right: float = 0.0


@dataclass(frozen=True)
class Point:
    """A dataclass that can be in a set."""

    x: float
    labels: frozenset[str] = frozenset()
    note: str = field(default="", compare=False)


@attrs.frozen
class Mark:
    """An attrs class."""

    at: Point
    names: set[str] = attrs.field(factory=set)


class Tagged(msgspec.Struct, tag=True, rename="camel"):
    """A struct with a tag and names of its own for the wire."""

    first_value: Decimal
    more_values: dict[str, set[int]] = {}


class Note(pydantic.BaseModel):
    """A model."""

    when: datetime
    words: frozenset[str] = frozenset()
    weights: dict[str, Decimal] = {}


class Form(msgspec.Struct):
    """All kinds together."""

    number: int | float = 0
    price: Decimal = Decimal(0)
    when: datetime | None = None
    clock: time | None = None
    took: timedelta = timedelta()
    uid: UUID = UUID(int=0)
    color: Color = Color.RED
    raw: bytes = b""
    flags: dict[str, bool] = {}
    ids: set[int] = set()
    points: frozenset[Point] = frozenset()
    table: dict[Color, list[set[str]]] = {}
    pair: Pair = Pair(0)
    tagged: Tagged | None = None
    plain: Any = None


router = Router()


@router.task(name="identities.work", key=("form", "note", "mark"))
def work(form: Form, note: Note | None = None, mark: Mark | None = None, extra: list[float] | None = None) -> None:
    """Do nothing."""


def identity(payload: bytes) -> str:
    """Write what identifies a call: its fingerprint, and its key."""
    arguments = work.contract.unpack(payload, 1)
    return f"{work.contract.fingerprint(arguments)} {work.contract.key_of(arguments, ('form', 'note', 'mark'))}"


if __name__ == "__main__":
    for line in sys.stdin.buffer:
        sys.stdout.write(f"{identity(line)}\n")
