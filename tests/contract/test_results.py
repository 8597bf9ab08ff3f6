"""The contract of a task: results and errors, there and back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import threading
import uuid
from collections.abc import Awaitable, Coroutine
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore.contract import Contract, compile_contract
from taskcore.errors import UnencodableResult
from tests.support.contracts import (
    FEW_EXAMPLES,
    ORDER,
    TODAY,
    Item,
    Line,
    Order,
    Profile,
    Receipt,
    greet,
    refusal,
    to_json,
)

# ── results ──────────────────────────────────────────────────────────────────────────────────────


def returning(annotation: Any) -> Contract:
    """Compile a function with this return annotation."""

    def task(): ...

    task.__annotations__["return"] = annotation
    return compile_contract(task, name="task")


@pytest.mark.parametrize(
    ("annotation", "value", "data"),
    [
        (None, None, b"null"),
        (str, "ü", '"ü"'.encode()),
        (bool, True, b"true"),
        (int, 2**70, b"1180591620717411303424"),
        (float, 1, b"1.0"),
        (Decimal | None, Decimal("1.50"), b'"1.50"'),
        (Any, {"a": [1]}, b'{"a":[1]}'),
        (list[Item], [Item(Decimal(1))], b'[{"price":"1","count":1}]'),
        (Receipt, Receipt(order=1, lines=[Line(text="a")]), b'{"order":1,"lines":[{"text":"a"}]}'),
    ],
)
def test_results_come_back_typed(annotation, value, data):
    """A result travels as JSON and comes back equal, in its type."""
    contract = returning(annotation)
    assert contract.pack_result(value) == data
    back = contract.unpack_result(data)
    assert back == value
    assert type(back) is (float if annotation is float else type(value))


@pytest.mark.parametrize(
    ("annotation", "value", "fact"),
    [
        (None, 1, "result: expected None, got int 1"),
        (str, None, "result: expected str, got None"),
        (str, "\udfff", "result: str '\\udfff' is not text, it holds half of a surrogate pair"),
        (Item, {"price": "1"}, "result: expected Item, got dict {'price': '1'}"),
        (Item, Item(1), "result.price: expected Decimal, got int 1"),
        (Receipt, Profile(age=1), "result: expected Receipt, got Profile(age=1)"),
        (Any, threading, "result: expected plain JSON data, got <module 'threading'"),
        (list[float], [1.0, float("nan")], "result[1]: nan cannot travel, JSON has neither nan nor infinity"),
    ],
)
def test_results_that_do_not_fit(annotation, value, fact):
    """A result that does not fit the annotation is UnencodableResult, with the reason, the contract and the fix."""
    contract = returning(annotation)
    with pytest.raises(UnencodableResult) as refused:
        contract.pack_result(value)
    assert refused.value.what == "task() succeeded, but what it returned does not fit its contract"
    assert refused.value.facts[0].startswith(fact)
    assert refused.value.facts[-1].startswith("contract: task() -> ")
    assert refused.value.fix


def test_stored_results_of_another_version():
    """A stored result that does not fit the annotation any more is an error that says so."""
    with pytest.raises(UnencodableResult, match=r"does not fit task\(\) version 1\n  result: expected int"):
        returning(int).unpack_result(b'"a"')


def test_awaitable_results():
    """Of a plain function that returns an awaitable, the result is what is awaited; of async def, what is written."""

    def plain() -> Awaitable[int]: ...

    def routine() -> Coroutine[Any, Any, Decimal]: ...

    async def proper() -> int: ...

    assert compile_contract(plain, name="task").unpack_result(b"1") == 1
    assert compile_contract(routine, name="task").unpack_result(b'"1"') == Decimal(1)
    assert compile_contract(proper, name="task").unpack_result(b"1") == 1

    async def twice() -> Awaitable[int]: ...

    assert refusal(twice).facts[0] == "the return type: Awaitable cannot travel as JSON"


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


class Declined(Exception):
    """Its args are plain data."""


class Limited(Exception):
    """Its arguments are typed, and kept by Python in ``args`` only."""

    def __init__(self, limit: Decimal, card: uuid.UUID, *, again: bool = False) -> None:
        super().__init__(limit, card)


class Told(Exception):
    """It makes a message of its arguments and keeps them as attributes, as most error classes do."""

    def __init__(self, code: int, due: dt.date) -> None:
        super().__init__(f"error {code}")
        self.code = code
        self.due = due


class Named(Exception):
    """It takes its arguments by name only."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"error {code}")
        self.code = code


class Doubling(Exception):
    """Its attribute is not what was given: it cannot be rebuilt."""

    def __init__(self, code: int) -> None:
        super().__init__("error")
        self.code = code * 2


class Forgetful(Exception):
    """It makes a message of its argument and forgets it: it cannot be rebuilt."""

    def __init__(self, code: int) -> None:
        super().__init__(f"error {code}")


@dataclasses.dataclass
class Stolen(Exception):
    """A dataclass."""

    card: uuid.UUID
    amount: Decimal = Decimal(0)


@dataclasses.dataclass(kw_only=True)
class Fields(Exception):
    """A dataclass that is built by name only."""

    order: Order
    when: dt.date


class StolenAbroad(Stolen):
    """A subclass that no contract declares."""


ERRORS = compile_contract(
    greet,
    name="greet",
    raises=(Declined, Limited, Told, Named, Doubling, Forgetful, Stolen, Fields, KeyError, OSError),
)


@pytest.mark.parametrize(
    "error",
    [
        Declined(),
        Declined("stolen", 7, None, [1.5]),
        Limited(Decimal("1.50"), uuid.UUID(int=7)),
        Told(7, TODAY),
        Named(code=7),
        Stolen(uuid.UUID(int=7)),
        Stolen(uuid.UUID(int=7), Decimal("1.50")),
        Stolen(card=uuid.UUID(int=7), amount=Decimal(1)),
        Stolen(uuid.UUID(int=7), amount=Decimal(1)),
        Fields(order=ORDER, when=TODAY),
        KeyError("key"),
        FileNotFoundError(2, "no such file"),
    ],
    ids=repr,
)
def test_errors_come_back_typed(error):
    """A declared error comes back as its class, with equal args and attributes of equal types."""
    data = ERRORS.pack_error(error)
    assert data is not None
    back = ERRORS.unpack_error(data)
    assert type(back) is type(error)
    assert back.args == error.args
    assert repr(vars(back)) == repr(vars(error))
    assert str(back) == str(error)


def test_errors_are_json():
    """An error travels as JSON with the name of its class and its fields, or its args."""
    stolen = json.loads(ERRORS.pack_error(Stolen(uuid.UUID(int=7), Decimal(1))) or "")
    assert stolen["type"] == "Stolen"
    assert stolen["fields"] == {"card": "00000000-0000-0000-0000-000000000007", "amount": "1"}
    assert json.loads(ERRORS.pack_error(Declined("stolen", 7)) or "") == {"type": "Declined", "args": ["stolen", 7]}


def test_errors_of_a_subclass():
    """An instance of a subclass that is not declared comes back as the declared class."""
    data = ERRORS.pack_error(StolenAbroad(uuid.UUID(int=7)))
    assert data is not None
    assert type(ERRORS.unpack_error(data)) is Stolen


def looped() -> Exception:
    """Make an error that refers to itself."""
    error = Declined()
    error.args = (error,)
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not declared"),
        Forgetful(7),
        Doubling(7),
        Declined(object()),
        Declined(uuid.UUID(int=7)),
        Declined(float("nan")),
        Declined("\ud800"),
        Stolen("not a UUID"),
        looped(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_do_not_travel(error):
    """An error that is not declared, or would not come back equal, is None; never an exception."""
    assert ERRORS.pack_error(error) is None


PAYLOAD_NAMES = st.sampled_from(["type", "args", "fields", "positional"])
PAYLOAD_PARTS = st.sampled_from(["Stolen", "Declined", "os.system", "SystemExit", [1], {"card": "x"}, {}, -1, 1])


@FEW_EXAMPLES
@given(st.binary(max_size=30) | st.dictionaries(PAYLOAD_NAMES, PAYLOAD_PARTS).map(to_json))
def test_only_declared_classes_are_built(data):
    """Any bytes give an instance of a declared class, or None; never an exception and never another class."""
    assert isinstance(ERRORS.unpack_error(data), (*ERRORS.raises, type(None)))
