"""The contract of a task: payloads back to arguments, of this version and of older ones."""

from __future__ import annotations

import datetime as dt
import inspect
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore.contract import compile_contract
from taskcore.errors import InvalidArguments
from tests.support.contracts import (
    FEW_EXAMPLES,
    GREET,
    JSON,
    NAMES,
    ORDER,
    SHIP,
    TODAY,
    from_v1,
    from_v2,
    greet,
    to_json,
)

# ── unpacking ────────────────────────────────────────────────────────────────────────────────────


def test_unpack_types():
    """Unpacked arguments have their types, from bytes as from the raw part of an envelope."""
    payload = SHIP.pack((ORDER,), {"by": TODAY})
    assert SHIP.unpack(payload, 1).order == ORDER
    assert SHIP.unpack(msgspec.Raw(payload), 1) == SHIP.unpack(payload, 1)


def test_unpack_fills_in_defaults():
    """A sender in another language may leave out what has a default, and write JSON in its own way."""
    assert GREET.unpack(b' {"name" : "Ada"} ', 1) == GREET.bind(("Ada",), {})


@pytest.mark.parametrize(
    ("payload", "fact"),
    [
        (b"", "not JSON: Input data was truncated"),
        (b"{", "not JSON: Input data was truncated"),
        (b'{"name":"\xff"}', "not JSON: "),
        (b'{"name":"\\ud800"}', "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b"[]", "expected a JSON object, got list []"),
        (b"null", "expected a JSON object, got None"),
        (b"{}", "name: missing"),
        (b'{"name":1}', "name: expected str, got int 1"),
        (b'{"name":"a","times":"2"}', "times: expected int, got str '2'"),
        (b'{"name":"a","times":null}', "times: expected int, got None"),
        (b'{"name":"a","times":1.5}', "times: expected int, got float 1.5"),
        (b'{"name":"a","nmae":1}', "nmae: unexpected"),
    ],
)
def test_payloads_that_do_not_fit(payload, fact):
    """Whatever is not a payload of this contract is InvalidArguments, with the reason."""
    with pytest.raises(InvalidArguments) as refused:
        GREET.unpack(payload, 1)
    assert refused.value.what == "the payload does not fit greet() version 1"
    assert refused.value.facts[0].startswith(fact)
    assert refused.value.facts[-1].startswith("contract: greet(")


def test_all_problems_of_a_payload():
    """A payload's problems are named all at once, too, in the words of JSON."""
    with pytest.raises(InvalidArguments) as refused:
        SHIP.unpack(b'{"order":{"id":"7","items":[{"price":true},{"count":1}]},"by":"today","quick":true}', 1)
    assert refused.value.facts[:-1] == (
        "order.id: invalid UUID, got str '7'",
        "order.items[0].price: expected Decimal, got bool True",
        "order.items[1]: object missing required field price, got dict {'count': 1}",
        "by: invalid RFC3339 encoded date, got str 'today'",
        "quick: unexpected",
    )


@FEW_EXAMPLES
@given(
    st.sampled_from([GREET, SHIP]),
    st.binary(max_size=30) | st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3).map(to_json),
)
def test_never_another_exception(contract, payload):
    """Any bytes are arguments or InvalidArguments, and arguments have no name too many and none too few."""
    try:
        arguments = contract.unpack(payload, 1)
    except InvalidArguments:
        return
    assert set(json.loads(payload)) <= set(contract.parameters)
    assert contract.unpack(contract.encode(arguments), 1) == arguments


@FEW_EXAMPLES
@given(st.lists(JSON, max_size=4), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_calls_like_python(args, kwargs):
    """A contract takes no call that Python would refuse, and passes the function exactly what was given."""
    for contract in (GREET, SHIP):
        try:
            payload = contract.pack(tuple(args), kwargs)
        except InvalidArguments:
            continue
        bound = inspect.signature(contract.function).bind(*args, **kwargs)
        bound.apply_defaults()
        assert contract.invoke(lambda *a, **k: (a, k), contract.unpack(payload, 1)) == (bound.args, bound.kwargs)


# ── versions ─────────────────────────────────────────────────────────────────────────────────────


def welcome(first: str, last: str, born: dt.date, times: int = 1) -> None:
    """Take the arguments of the third version."""


WELCOME = compile_contract(welcome, name="welcome", version=3, upcasts={1: from_v1, 2: from_v2})


def test_upcasts_are_chained():
    """A payload of an older version goes through every step up to this version."""
    expected = WELCOME.bind(("Ada", "Lovelace", dt.date(1815, 12, 10)), {})
    assert WELCOME.unpack(b'{"name":"Ada Lovelace"}', 1) == expected
    assert WELCOME.unpack(b'{"first":"Ada","last":"Lovelace"}', 2) == expected
    assert WELCOME.unpack(WELCOME.encode(expected), 3) == expected


@pytest.mark.parametrize(
    ("payload", "version", "facts"),
    [
        (b"{}", 4, ["it was written for version 4"]),
        (b"{}", 0, ["it was written for version 0", "no upcast from version 0 to 1"]),
        (b"{}", -9, ["it was written for version -9", "no upcast from version -9 to -8"]),
        (b"{}", 1, ["it was written for version 1", "the upcast from version 1 to 2 failed: KeyError: 'name'"]),
        (b"[]", 1, ["expected a JSON object, got list []"]),
        (b"{]", 2, ["not JSON: JSON is malformed: object keys must be strings (byte 1)"]),
        (b'{"first":1,"old":2}', 2, ["first: expected str, got int 1", "old: unexpected", "last: missing"]),
    ],
)
def test_versions_that_do_not_fit(payload, version, facts):
    """A payload that no upcast makes fit is InvalidArguments that name the step."""
    with pytest.raises(InvalidArguments) as refused:
        WELCOME.unpack(payload, version)
    assert list(refused.value.facts[:-1]) == facts
    assert refused.value.what == "the payload does not fit welcome() version 3"


@pytest.mark.parametrize(
    ("upcast", "problem"),
    [
        (lambda args: None, "TypeError: it returned None, not a dict"),
        (lambda args: [args], "TypeError: it returned list [{'name': 'Ada'}], not a dict"),
        (lambda args: {"name": object()}, "TypeError: object cannot travel as JSON"),
        (lambda args: args["first"], "KeyError: 'first'"),
    ],
)
def test_upcasts_that_fail(upcast, problem):
    """An upcast that raises, or returns no dict, is named with its step, and its error is the cause."""
    contract = compile_contract(greet, name="greet", version=2, upcasts={1: upcast})
    with pytest.raises(InvalidArguments) as refused:
        contract.unpack(b'{"name":"Ada"}', 1)
    assert refused.value.facts[1] == f"the upcast from version 1 to 2 failed: {problem}"
    assert refused.value.__cause__ is not None
