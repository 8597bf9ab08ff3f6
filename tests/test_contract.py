"""The contract of a task: decorating, calling, unpacking, results, errors, schema."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import inspect
import json
import pathlib
import re
import threading
import typing
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Self

import annotated_types
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore.contract import Arguments, Contract, compile_contract
from taskcore.errors import InvalidArguments, InvalidContract, UnencodableResult

if TYPE_CHECKING:
    from nowhere import Missing


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
    """The task of the README."""
    return f"hello {name}! " * times


def ship(order: Order, tags: list[str] = ["new"], *, fast: bool = False, by: dt.date) -> Receipt:  # noqa: B006
    """A task with all kinds of parameters."""
    return Receipt(order=1, lines=[])


GREET = compile_contract(greet, name="greet")
SHIP = compile_contract(ship, name="shop.ship")
ORDER = Order(uuid.UUID(int=7), [Item(Decimal("1.50")), Item(Decimal(2), 3)])
TODAY = dt.date(2026, 11, 22)


def line_of(function: Any) -> str:
    """Where a function is defined, as its contract has to say it."""
    file = pathlib.Path(__file__)
    near = file.relative_to(pathlib.Path.cwd()) if file.is_relative_to(pathlib.Path.cwd()) else file
    return f"{near}:{inspect.unwrap(function).__code__.co_firstlineno}"


def refusal(function: Any, **options: Any) -> InvalidContract:
    """The refusal of a function that cannot be a task."""
    with pytest.raises(InvalidContract) as refused:
        compile_contract(function, name="task", **options)
    assert refused.value.fix, "every refusal says what to do"
    assert refused.value.facts[-1] == f"defined at {line_of(function)}"
    return refused.value


# ── what a contract knows ────────────────────────────────────────────────────────────────────────


def test_it_knows_its_function():
    """A contract tells the function's name, place and signature as a person reads them."""
    assert (GREET.name, GREET.version, GREET.function, GREET.raises) == ("greet", 1, greet, ())
    assert GREET.signature == "greet(name: str, times: int = 1) -> str"
    assert GREET.where == line_of(greet)
    assert SHIP.parameters == ("order", "tags", "fast", "by")
    assert SHIP.signature == (
        "ship(order: Order, tags: list[str] = ['new'], *, fast: bool = False, by: dt.date) -> Receipt"
    )
    assert repr(GREET) == "<Contract greet version 1: greet(name: str, times: int = 1) -> str>"


def test_place_outside_of_the_working_directory(monkeypatch, tmp_path):
    """A file below the working directory is named relative to it, any other in full."""
    monkeypatch.chdir(tmp_path)
    assert compile_contract(greet, name="greet").where == f"{__file__}:{greet.__code__.co_firstlineno}"
    monkeypatch.chdir(pathlib.Path(__file__).parent)
    assert compile_contract(greet, name="greet").where == f"test_contract.py:{greet.__code__.co_firstlineno}"


def test_place_without_a_working_directory(monkeypatch):
    """Where the working directory is gone, files are named in full."""

    def gone(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr("os.path.relpath", gone)
    assert compile_contract(greet, name="greet").where == f"{__file__}:{greet.__code__.co_firstlineno}"


def test_annotations_that_are_not_text():
    """The signature is as readable when annotations are types, not text; long defaults are cut."""

    def task(order, text, many="x" * 100, anything=None): ...

    task.__annotations__ = {"order": list[Order] | None, "text": typing.Literal["a.b"], "return": dict[str, Item]}
    signature = compile_contract(task, name="task").signature
    assert signature.startswith("task(order: list[Order] | None, text: Literal['a.b'], many='xxx")
    assert signature.endswith("x…, anything=None) -> dict[str, Item]")
    assert len(signature) < 200


def test_decorated_functions():
    """Of a function wrapped by another decorator, signature, place and names are those of the inner one."""

    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return ["traced", function(*args, **kwargs)]

        return wrapper

    contract = compile_contract(traced(greet), name="greet")
    assert contract.signature == GREET.signature
    assert contract.where == GREET.where
    assert contract.spread(contract.function, contract.bind(("a",), {})) == ["traced", "hello a! "]


def test_types_of_the_enclosing_function():
    """An annotation may name a type of the enclosing function, if the function refers to it."""

    class Local(msgspec.Struct):
        number: int

    def task(value: Local) -> Local:
        return Local(value.number)

    contract = compile_contract(task, name="task")
    assert contract.unpack(b'{"value":{"number":1}}', 1).value == Local(1)


# ── calling ──────────────────────────────────────────────────────────────────────────────────────


def test_payload():
    """A payload is a JSON object of all arguments by name, in the order of the signature, defaults included."""
    assert GREET.pack(("Ada",), {}) == b'{"name":"Ada","times":1}'
    assert GREET.pack((), {"times": 2, "name": "Ada"}) == b'{"name":"Ada","times":2}'
    assert SHIP.pack((ORDER,), {"by": TODAY}) == (
        b'{"order":{"id":"00000000-0000-0000-0000-000000000007","items":[{"price":"1.50","count":1},'
        b'{"price":"2","count":3}],"note":null},"tags":["new"],"fast":false,"by":"2026-11-22"}'
    )


def test_bind_and_pack_agree():
    """`pack` is `bind` and `encode` in one; what is bound is what arrives, a copy."""
    arguments = SHIP.bind((ORDER,), {"by": TODAY, "fast": True})
    assert isinstance(arguments, Arguments)
    assert SHIP.encode(arguments) == SHIP.pack((ORDER,), {"by": TODAY, "fast": True})
    assert SHIP.unpack(SHIP.encode(arguments), 1) == arguments
    assert arguments.order == ORDER
    assert arguments.order is not ORDER


def test_spread_calls_as_the_signature_says():
    """The function gets positional, named and keyword-only arguments where it expects them."""

    def task(a: int, /, b: int, c: int = 3, *, d: int, e: int = 5) -> list[int]:
        return [a, b, c, d, e]

    contract = compile_contract(task, name="task")
    assert contract.signature == "task(a: int, /, b: int, c: int = 3, *, d: int, e: int = 5) -> list[int]"
    assert contract.spread(task, contract.unpack(contract.pack((1, 2), {"d": 4}), 1)) == [1, 2, 3, 4, 5]
    assert GREET.spread(greet, GREET.bind(("a",), {"times": 2})) == "hello a! hello a! "

    def key(*args: int, **kwargs: int) -> tuple[Any, Any]:
        return args, kwargs

    assert contract.spread(key, contract.bind((1, 2), {"d": 4})) == ((1, 2, 3), {"d": 4, "e": 5})


def test_no_parameters():
    """A task may have no parameters and no annotation at all."""

    def tick(): ...

    contract = compile_contract(tick, name="tick")
    assert contract.pack((), {}) == b"{}"
    assert contract.spread(lambda: 7, contract.unpack(b"{}", 1)) == 7
    with pytest.raises(InvalidArguments, match="x: unexpected"):
        contract.unpack(b'{"x":1}', 1)
    assert contract.schema()["parameters"]["properties"] == {}


@pytest.mark.parametrize("name", ["self", "cls", "args", "kwargs", "_private", "type", "ünï", "name", "field"])
def test_names_of_parameters(name):
    """Any ordinary name may be a parameter's, whatever it means elsewhere."""
    scope: dict[str, Any] = {}
    exec(f"def task({name}: int = 1, *, {name}_too: int = 2): return {name}, {name}_too", scope)
    contract = compile_contract(scope["task"], name="task")
    arguments = contract.unpack(contract.pack((), {name: 3}), 1)
    assert contract.spread(scope["task"], arguments) == (3, 2)


def test_defaults_are_not_shared():
    """A mutable default is made anew for each call, however it is written."""

    def task(words: list[str] = ["a"], order: Order = ORDER, anything=[]): ...  # noqa: B006

    contract = compile_contract(task, name="task")
    first, second = contract.bind((), {}), contract.unpack(b"{}", 1)
    assert first == second
    assert first.order == ORDER
    first.words.append("b")
    first.order.items.clear()
    first.anything.append(1)
    assert contract.bind((), {}) == second
    assert ORDER.items


def test_all_problems_at_once():
    """A refusal names every problem of the call, each with its path, and the contract."""
    with pytest.raises(InvalidArguments) as refused:
        GREET.pack((), {"nmae": "Ada", "times": "two"})
    assert str(refused.value) == (
        "[TC302] greet() refuses these arguments; nothing was sent\n"
        "  times: expected int, got str 'two'\n"
        "  nmae: unexpected (did you mean name?)\n"
        "  name: missing\n"
        f"  contract: greet(name: str, times: int = 1) -> str, defined at {line_of(greet)}"
    )


def test_all_problems_of_nested_values():
    """Problems at any depth are named with their paths, all of them."""
    order = Order("7", [Item(Decimal(1)), Item(1.5, "2")], 3)
    with pytest.raises(InvalidArguments) as refused:
        SHIP.pack((order, ["a", 1]), {"fast": 1, "whatever": 2})
    assert refused.value.facts[:-1] == (
        "order.id: expected UUID, got str '7'",
        "order.items[1].price: expected Decimal, got float 1.5",
        "order.items[1].count: expected int, got str '2'",
        "order.note: expected str | None, got int 3",
        "tags[1]: expected str, got int 1",
        "fast: expected bool, got int 1",
        "whatever: unexpected",
        "by: missing",
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "facts"),
    [
        ((), {}, ["name: missing"]),
        (("a", 1, 2), {}, ["takes 2 positional arguments, got 3"]),
        (("a",), {"name": "b"}, ["name: given by position already"]),
        ((1, 2), {"name": 3}, ["name: expected str, got int 1", "name: given by position already"]),
        ((1, 2, 3), {}, ["name: expected str, got int 1", "takes 2 positional arguments, got 3"]),
        (("a",), {"tims": 1, "zzz": 1}, ["tims: unexpected (did you mean times?)", "zzz: unexpected"]),
    ],
)
def test_calls_that_do_not_fit_the_signature(args, kwargs, facts):
    """Missing, unexpected, doubled and surplus arguments are named as such."""
    with pytest.raises(InvalidArguments) as refused:
        GREET.bind(args, kwargs)
    assert list(refused.value.facts[:-1]) == facts


def test_positional_only():
    """A positional-only parameter cannot be given by name, as Python has it."""

    def task(number: int, /, other: int = 2): ...

    contract = compile_contract(task, name="task")
    assert contract.pack((1,), {"other": 3}) == b'{"number":1,"other":3}'
    with pytest.raises(InvalidArguments) as refused:
        contract.pack((), {"number": "1"})
    assert refused.value.facts[:2] == ("number: expected int, got str '1'", "number: positional only")
    with pytest.raises(InvalidArguments) as refused:
        contract.pack((), {"number": 1})
    assert refused.value.facts[0] == "number: positional only"


def test_keyword_only():
    """A keyword-only parameter cannot be given by position."""
    with pytest.raises(InvalidArguments, match="takes 2 positional arguments, got 3"):
        SHIP.pack((ORDER, ["a"], True), {"by": TODAY})


def test_missing_annotations_take_plain_data():
    """A parameter without annotation takes JSON data, and refuses what would arrive as something else."""

    def task(value, *, other: Any = None): ...

    contract = compile_contract(task, name="task")
    data = {"a": [1, 2.5, None, True, "x", {"b": {}}]}
    assert contract.unpack(contract.pack((data,), {"other": data}), 1).value == data
    for odd in [(1,), {1: 2}, {1}, b"x", TODAY, ORDER, Decimal(1), object()]:
        with pytest.raises(InvalidArguments, match=r"plain JSON data|the key"):
            contract.pack((odd,), {})


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "items"]), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["order", "tags", "fast", "by", "name", "times"]
FEW = settings(max_examples=200, deadline=None)


def to_json(value: Any) -> bytes:
    """JSON as Python writes it, with its NaN."""
    return json.dumps(value).encode()


@FEW
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


@FEW
@given(st.lists(JSON, max_size=4), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_calls_like_python(args, kwargs):
    """A contract takes no call that Python would refuse, and hands the function exactly what was given."""
    for contract in (GREET, SHIP):
        try:
            payload = contract.pack(tuple(args), kwargs)
        except InvalidArguments:
            continue
        bound = inspect.signature(contract.function).bind(*args, **kwargs)
        bound.apply_defaults()
        assert contract.spread(lambda *a, **k: (a, k), contract.unpack(payload, 1)) == (bound.args, bound.kwargs)


# ── versions ─────────────────────────────────────────────────────────────────────────────────────


def from_v1(args: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one name."""
    first, last = args.pop("name").split(" ")
    return {**args, "first": first, "last": last}


def from_v2(args: dict[str, Any]) -> dict[str, Any]:
    """Version 2 had no title; upcasts may return any type that travels."""
    return {**args, "born": dt.date(1815, 12, 10)}


def welcome(first: str, last: str, born: dt.date, times: int = 1) -> None:
    """A task in its third version."""


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


# ── results ──────────────────────────────────────────────────────────────────────────────────────


def returning(annotation: Any) -> Contract:
    """The contract of a function with this return annotation."""

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
    """An error that refers to itself."""
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


STORY_NAMES = st.sampled_from(["type", "args", "fields", "positional"])
STORY_PARTS = st.sampled_from(["Stolen", "Declined", "os.system", "SystemExit", [1], {"card": "x"}, {}, -1, 1])


@FEW
@given(st.binary(max_size=30) | st.dictionaries(STORY_NAMES, STORY_PARTS).map(to_json))
def test_only_declared_classes_are_built(data):
    """Any bytes give an instance of a declared class, or None; never an exception and never another class."""
    assert isinstance(ERRORS.unpack_error(data), (*ERRORS.raises, type(None)))


# ── about the contract ───────────────────────────────────────────────────────────────────────────


def test_largest():
    """The largest argument of a payload is named with its size in bytes."""
    assert SHIP.largest(SHIP.pack((ORDER, ["x" * 1000]), {"by": TODAY})) == ("tags", 1004)
    assert GREET.largest(b"{}") == ("", 0)
    assert GREET.largest(b"no") == ("", 0)


def test_schema():
    """The schema is a JSON document that describes every parameter and the result; its references lead somewhere."""
    schema = json.loads(json.dumps(SHIP.schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["task"], schema["version"]) == ("shop.ship", 1)
    assert list(schema["parameters"]["properties"]) == ["order", "tags", "fast", "by"]
    assert schema["parameters"]["required"] == ["order", "by"]
    assert schema["parameters"]["additionalProperties"] is False
    for reference in _references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]
    assert schema["$defs"]["Receipt.Line"]["properties"]["text"] == {"title": "Text", "type": "string"}


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
        part = list(part.values())
    for each in part if isinstance(part, list) else []:
        yield from _references(each)


# ── signatures that cannot be kept ───────────────────────────────────────────────────────────────


class Plain:
    """A class of which msgspec knows nothing."""

    def method(self, number: int) -> None:
        """A method."""

    @classmethod
    def made(cls, number: int) -> None:
        """A class method."""

    def __call__(self, number: int) -> None:
        """An instance that can be called."""


@pydantic.dataclasses.dataclass
class Validated:
    """A pydantic dataclass."""

    number: int


class Odd(enum.Enum):
    """An enum of values that are not text or whole numbers."""

    HALF = 0.5


@pytest.mark.parametrize(
    ("annotation", "fact"),
    [
        (threading.Lock, "value: "),  # a function until Python 3.12, a class since
        (threading.Thread, "value: Thread cannot travel as JSON"),
        (Plain, "value: Plain cannot travel as JSON"),
        (list[dict[str, Plain | None]], "value: Plain cannot travel as JSON"),
        (Plain(), "value: type '<"),
        (object, "value: object cannot travel as JSON"),
        (Callable[[int], int], "value: Callable cannot travel as JSON"),
        (type[int], "value: type cannot travel as JSON"),
        (Self, "value: type 'typing.Self' is not supported"),
        (5, "value: type '5' is not supported"),
        ("Nowhere", "value: name 'Nowhere' is not defined"),
        ("list[Missing]", "value: name 'Missing' is not defined"),
        ("1 +", "value: "),
        (Item | Order, "value: type unions may not contain more than one dataclass"),
        (Receipt | int, "value: type unions containing a custom type"),
        (str | bytes, "value: type unions may not contain more than one str-like type"),
        (dict[tuple[int, int], str], "value: dict keys of this type cannot travel as JSON"),
        (set[list[int]], "value: items of this type cannot be in a set"),
        (set[Item], "value: items of this type cannot be in a set"),
        (msgspec.Raw, "value: raw bytes of a format cannot travel as JSON"),
        (Validated, "value: Validated is a pydantic dataclass, whose rules would be skipped"),
        (Odd, "value: enums must contain either all str or all int values"),
        (Annotated[int | None, annotated_types.Gt(0)], "value: can only set gt on a numeric type"),
        (Annotated[int, pydantic.AfterValidator(abs)], "value: AfterValidator(func=<built-in function abs>) cannot be"),
        (Annotated[str, pydantic.StringConstraints(pattern="a", to_lower=True)], "value: _PydanticGeneralMetadata("),
        (Annotated[int, annotated_types.Predicate(bool)], "value: Predicate(bool) cannot be checked here"),
        (Annotated[int, pydantic.Field(3)], "value: Field() may only hold constraints here"),
    ],
    ids=lambda part: re.sub(r" at 0x\w+", "", str(part)),
)
def test_types_that_cannot_travel(annotation, fact):
    """A type that cannot travel is refused when the function is decorated, as a parameter and as a result."""

    def parameter(value): ...

    def result(): ...

    parameter.__annotations__["value"] = result.__annotations__["return"] = annotation
    error = refusal(parameter)
    assert error.what == "parameter() cannot be a task"
    assert error.facts[0].startswith(fact)
    assert refusal(result).facts[0].startswith(fact.replace("value", "the return type", 1))


def test_signatures_that_cannot_be_read():
    """A function without a readable signature is refused like any other."""

    def task(): ...

    task.__signature__ = 5
    assert "unexpected object 5" in refusal(task).facts[0]


def test_all_flaws_at_once():
    """Everything that is wrong with a signature is named at once, with parameter, file and line."""

    def task(
        thread: threading.Thread,
        number: int = "x",
        later: str = None,  # noqa: RUF013 - that is the mistake
        __odd: int = 1,
        *rest: int,
        **more: Missing,
    ) -> Plain: ...

    error = refusal(task, version=3, upcasts={1: from_v1, 7: from_v1}, raises=(int, KeyError, KeyError))
    assert error.facts[:-1] == (
        "upcasts: 7 is not a version below 3",
        "no upcast from version 2 to 3",
        "raises: expected exception classes, got <class 'int'>",
        "raises: several classes are called KeyError",
        "thread: Thread cannot travel as JSON",
        "the default of number: expected int, got str 'x'",
        "the default of later: expected str, got None",
        "__odd: such names are Python's own",
        "*rest: a contract has only parameters with names",
        "**more: a contract has only parameters with names",
        "the return type: Plain cannot travel as JSON",
    )
    assert "write later: str | None" in (error.fix or "")


@pytest.mark.parametrize(
    "default", [object(), float("nan"), "\ud800", 1.5, {1: 2}, lambda: 0], ids=lambda default: type(default).__name__
)
def test_defaults_that_do_not_fit(default):
    """A default has to fit its annotation, and to travel, like any argument."""

    def task(value: int | str | list[float] | dict[str, int] = default): ...

    assert refusal(task).facts[0].startswith("the default of value")


def generator() -> Iterator[int]:
    """A generator."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """An asynchronous one."""
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_generators(function):
    """A generator has many results, so it cannot be a task."""
    assert refusal(function).facts[0] == "it is a generator, and a job has one result"


@pytest.mark.parametrize(
    "function",
    [Plain, Plain(), Plain().method, Plain.made, print, functools.partial(greet, "a"), None],
    ids=["class", "object", "method", "classmethod", "builtin", "partial", "none"],
)
def test_only_functions(function):
    """Classes, instances, bound methods, builtins and partials are refused with what to do instead."""
    with pytest.raises(InvalidContract, match="cannot be a task") as refused:
        compile_contract(function, name="task")
    assert refused.value.fix


def test_methods():
    """A method is refused in the class body already."""
    assert refusal(Plain.method).facts[0] == "it is a method of Plain"


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"version": 0}, "version, upcasts: expected a version from 1 and a dict, got int 0 and dict {}"),
        ({"version": True}, "version, upcasts: expected a version from 1 and a dict, got bool True"),
        ({"version": 2, "upcasts": from_v1}, "version, upcasts: expected a version from 1 and a dict"),
        ({"version": 2, "upcasts": {2: from_v1}}, "upcasts: 2 is not a version below 2"),
        ({"version": 2, "upcasts": {"1": from_v1}}, "upcasts: '1' is not a version below 2"),
        ({"version": 4, "upcasts": {2: from_v1}}, "no upcast from version 3 to 4"),
        ({"version": 2, "upcasts": {1: "from_v1"}}, "upcasts[1]: expected a function, got str 'from_v1'"),
        ({"raises": KeyError}, "raises: expected exception classes, got <class 'KeyError'>"),
        ({"raises": ("KeyError",)}, "raises: expected exception classes, got str 'KeyError'"),
    ],
)
def test_options_that_do_not_fit(options, fact):
    """Versions, upcasts without gaps, and error classes are checked when the function is decorated."""
    assert refusal(greet, **options).facts[0].startswith(fact)


def test_upcasts_may_start_anywhere():
    """The oldest versions need no upcasts any more; newer ones have no gap."""
    assert compile_contract(greet, name="greet", version=5).version == 5
    assert compile_contract(greet, name="greet", version=5, upcasts={3: from_v1, 4: from_v2}).version == 5
