"""Identity is meaning: equal arguments have one key and one fingerprint, in every process; others have others."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore import App, KeyConflict, Router
from taskcore.contract import compile_contract
from taskcore.contract.codec.identity import identity_of
from tests.support import identities
from tests.support.identities import Color, Form, Mark, Note, Pair, Point, Tagged

EAST = timezone(timedelta(hours=2))
NOON = datetime(2026, 1, 1, 12, tzinfo=EAST)

# Few values, most of them equal to another one that is written otherwise.
numbers = st.sampled_from([0, 0.0, -0.0, 1, 1.0, 2, 0.5, 1e22, 2**53, float(2**53), 2**53 + 1, -7, -7.0])
floats = numbers.filter(lambda number: float(number) == number)
decimals = st.sampled_from(
    [Decimal(text) for text in ("0", "-0.0", "1", "1.0", "1.00", "0.5", "0.50", "0.1", "0.10", "1E+2", "100", "1e400")]
)
times = st.sampled_from(
    [NOON, NOON.astimezone(UTC), NOON + timedelta(hours=2), datetime.min.replace(tzinfo=EAST), datetime(2026, 1, 1, 12)]  # noqa: DTZ001 - naive on purpose
)
clocks = st.sampled_from([time(12, tzinfo=EAST), time(10, tzinfo=UTC), time(12), time(0, tzinfo=EAST)])
texts = st.sampled_from(["", "a", "b", "1", "ä", '"'])
sets = st.frozensets(texts, max_size=3)
points = st.builds(Point, floats, sets, texts)
shuffled = st.dictionaries(texts, st.booleans(), max_size=3).flatmap(lambda some: st.permutations(list(some.items())))
json_data = st.recursive(
    st.none() | texts | numbers, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2)
)
forms = st.builds(
    Form,
    number=numbers,
    price=decimals,
    when=st.none() | times,
    clock=st.none() | clocks,
    took=st.sampled_from([timedelta(minutes=1), timedelta(seconds=60), timedelta(days=-1, microseconds=1)]),
    uid=st.sampled_from([UUID(int=1), UUID(int=2)]),
    color=st.sampled_from([Color.RED, Color.CRIMSON, Color.BLUE]),
    raw=st.sampled_from([b"", b"a"]),
    flags=shuffled.map(dict),
    ids=st.sets(st.integers(0, 3), max_size=3),
    points=st.frozensets(points, max_size=3),
    table=st.dictionaries(st.sampled_from(list(Color)), st.lists(sets.map(set), max_size=2), max_size=2),
    pair=st.builds(Pair, st.integers(0, 1), floats),
    tagged=st.none() | st.builds(Tagged, decimals, st.dictionaries(texts, st.sets(st.integers(0, 2)), max_size=2)),
    plain=json_data,
)
notes = st.builds(
    Note, when=times, words=sets, weights=st.dictionaries(texts, decimals.filter(Decimal.is_finite), max_size=2)
)
marks = st.builds(Mark, points, sets.map(set))
calls = st.tuples(forms, st.none() | notes, st.none() | marks, st.none() | st.lists(floats, max_size=2))


def identity(arguments):
    """Return fingerprint and key of a call."""
    return identities.identity(identities.work.contract.pack(arguments, {}))


def arrived(arguments):
    """Return the arguments as they arrive."""
    return identities.work.contract.bind(arguments, {})


@given(calls, calls)
@settings(max_examples=150, deadline=None)
def test_equal_arguments_have_one_identity_and_others_have_others(one, other):
    """Fingerprints are equal if, and only if, the arguments are; so are keys, for the parameters that make them."""
    equal = arrived(one) == arrived(other)
    first, second = identity(one).split(" ", 1), identity(other).split(" ", 1)

    assert (first[0] == second[0]) is equal
    assert (first[1] == second[1]) is (arrived(one[:3]) == arrived(other[:3]))


FIELDS: dict[str, Any] = {
    "number": numbers,
    "price": decimals,
    "when": times,
    "clock": clocks,
    "flags": shuffled.map(dict),
    "points": st.frozensets(points, max_size=2),
    "tagged": st.builds(Tagged, decimals),
    "plain": json_data,
}


@pytest.mark.parametrize("name", FIELDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_each_kind_of_value(name, data):
    """The same for one kind of value at a time, so that many pairs are equal."""
    one, other = (Form(**{name: data.draw(FIELDS[name])}) for _ in range(2))

    assert (identity((one,)) == identity((other,))) is (arrived((one,)) == arrived((other,)))


@given(st.lists(calls, min_size=5, max_size=10))
@settings(max_examples=4, deadline=None)
def test_every_process_finds_the_same(some):
    """Two processes with other hash seeds agree with this one."""
    payloads = [identities.work.contract.pack(each, {}) for each in some]
    for seed in ("1", "4242"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.support.identities"],
            input=b"\n".join(payloads) + b"\n",
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert ran.stdout.decode().splitlines() == list(map(identities.identity, payloads))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (frozenset({"b", "a"}), '["a","b"]'),
        ({"b": 1, "a": {2, 1}}, '{"a":[1,2],"b":1}'),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e22, "1e+22"),
        (Decimal("1.00"), "1"),
        (Decimal("0.50"), "0.5"),
        (Decimal("0.10"), '"1e-1"'),
        (Decimal("-12.340"), '"-1234e-2"'),
        (Decimal("1e400"), '"1e400"'),
        (Decimal("Infinity"), '"Infinity"'),
        (True, "true"),
        (None, "null"),
        ("ä\n", '"ä\\n"'),
        (b"\xff", '"/w=="'),
        (NOON, '"2026-01-01T10:00:00Z"'),
        (datetime(2026, 1, 1, 12), '"2026-01-01T12:00:00"'),  # noqa: DTZ001 - naive on purpose
        (time(1, tzinfo=EAST), '"1969-12-31T23:00:00Z"'),
        (timedelta(seconds=90), '"PT90S"'),
        (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (Color.CRIMSON, '"red"'),
        (Pair(1), '{"left":1}'),
        (Pair(1, 2.0), '{"left":1,"right":2}'),
        (Point(1, frozenset("ab"), "not compared"), '{"labels":["a","b"],"x":1}'),
        (Tagged(Decimal(1)), '{"firstValue":1,tag:"Tagged"}'),
        (Note(when=NOON, weights={"a": Decimal("2.0")}), '{"weights":{"a":2},"when":"2026-01-01T10:00:00Z"}'),
        (Mark(Point(1)), '{"at":{"x":1}}'),
        ([(1, 2.0), [3]], "[[1,2],[3]]"),
    ],
)
def test_identities_are_the_same_on_every_python(value, text):
    """What an identity looks like is written down: another text would be another key in another program."""
    assert identity_of(value) == text


@dataclass
class Old:
    """A class before fields were added."""

    cents: int


@dataclass
class New:
    """The class afterwards."""

    cents: int
    currency: str = "EUR"
    tags: tuple[str, ...] = ()


def contract(function):
    """Compile a contract."""
    return compile_contract(function, name="shop.pay")


def test_a_parameter_that_is_added_with_a_default_changes_nothing():
    """A repeat from an older caller is a call with the default; in nested objects, too."""

    def old(order: int, price: Old) -> None: ...
    def new(order: int, price: New, note: str = "", rates: list[float] | None = None) -> None: ...

    before, after = contract(old), contract(new)
    sent = before.pack((7, Old(5)), {})

    assert before.fingerprint(before.unpack(sent, 1)) == after.fingerprint(after.unpack(sent, 1))
    assert after.fingerprint(after.bind((7, New(5)), {"note": "x"})) != after.fingerprint(after.unpack(sent, 1))


def test_positions_and_names_are_one_call():
    """An argument has one identity, however it is given."""

    def pay(order: int, cents: float = 1.0) -> None: ...

    it = contract(pay)
    assert (
        len({it.fingerprint(it.bind(*each)) for each in [((7, 1), {}), ((7,), {}), ((), {"cents": 1, "order": 7})]})
        == 1
    )


@pytest.mark.parametrize(
    ("annotation", "values"),
    [(int | str, (7, "7")), (Any, (7, "7")), (Any, ("[1]", [1])), (str | None | bool, ("true", True))],
)
def test_texts_and_other_values_have_other_keys(annotation, values):
    """Where a parameter takes texts and other values, a text that looks like a value has a key of its own."""

    def pay(what) -> None: ...

    pay.__annotations__["what"] = annotation
    task = Router().task(name="shop.pay", key="what")(pay)
    assert len({task.call(value).key for value in values}) == 2


@pytest.mark.anyio
async def test_a_repeat_in_another_order_gets_the_first_job():
    """Dicts in another order, sets, one instant in two zones: the repeat is the same job, on the worker's side, too."""
    app = App("memory://")

    @app.task(key="order")
    async def pay(order: str, meta: dict[str, int], tags: set[str], at: datetime, price: Decimal) -> str:
        return order

    with anyio.fail_after(10):
        async with app.running():
            first = await pay.enqueue("a", {"cents": 5, "tax": 1}, {"x", "y", "z"}, NOON, Decimal("1.0"))
            for _ in range(2):
                again = await pay.enqueue(
                    "a", {"tax": 1, "cents": 5}, {"z", "y", "x"}, NOON.astimezone(UTC), Decimal("1.00")
                )
                assert again == first
                assert len({again, first}) == 1
                assert (again != first) is False
                assert await again.result(timeout=5) == "a"
            with pytest.raises(KeyConflict):
                await pay.enqueue("a", {"tax": 2, "cents": 5}, set(), NOON, Decimal(1))
