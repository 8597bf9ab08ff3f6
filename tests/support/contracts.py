"""Tasks, types and refusals that the tests of contracts share."""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import json
import pathlib
import uuid
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from taskcore.contract import compile_contract
from taskcore.errors import InvalidContract


@dataclasses.dataclass
class Item:
    """A part of an order."""

    price: Decimal
    count: int = 1


@dataclasses.dataclass
class Order:
    """An argument with an inside."""

    id: uuid.UUID
    items: list[Item]
    note: str | None = None


class Receipt(pydantic.BaseModel):
    """A result with models inside."""

    order: int
    lines: list[Line]


class Line(pydantic.BaseModel):
    """A line of a receipt."""

    text: str


class Profile(pydantic.BaseModel):
    """A model."""

    age: int


def greet(name: str, times: int = 1) -> str:
    """Greet, as the task of the README does."""
    return f"hello {name}! " * times


def ship(order: Order, tags: list[str] = ["new"], *, fast: bool = False, by: dt.date) -> Receipt:  # noqa: B006
    """Take parameters of all kinds."""
    return Receipt(order=1, lines=[])


GREET = compile_contract(greet, name="greet")
SHIP = compile_contract(ship, name="shop.ship")
ORDER = Order(uuid.UUID(int=7), [Item(Decimal("1.50")), Item(Decimal(2), 3)])
TODAY = dt.date(2026, 11, 22)


def line_of(function: Any) -> str:
    """Say where a function is defined, as its contract has to."""
    code = inspect.unwrap(function).__code__
    file = pathlib.Path(code.co_filename)
    near = file.relative_to(pathlib.Path.cwd()) if file.is_relative_to(pathlib.Path.cwd()) else file
    return f"{near}:{code.co_firstlineno}"


def refusal(function: Any, **options: Any) -> InvalidContract:
    """Return the refusal of a function that cannot be a task."""
    with pytest.raises(InvalidContract) as refused:
        compile_contract(function, name="task", **options)
    assert refused.value.fix, "every refusal says what to do"
    assert refused.value.facts[-1] == f"defined at {line_of(function)}"
    return refused.value


def from_v1(args: dict[str, Any]) -> dict[str, Any]:
    """Upcast version 1, which had one name."""
    first, last = args.pop("name").split(" ")
    return {**args, "first": first, "last": last}


def from_v2(args: dict[str, Any]) -> dict[str, Any]:
    """Upcast version 2, which had no title; upcasts may return any type that travels."""
    return {**args, "born": dt.date(1815, 12, 10)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "items"]), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["order", "tags", "fast", "by", "name", "times"]
FEW_EXAMPLES = settings(max_examples=200, deadline=None)


def to_json(value: Any) -> bytes:
    """Encode JSON as Python writes it, with its NaN."""
    return json.dumps(value).encode()
