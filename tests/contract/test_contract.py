"""The contract of a task: decorating, calling, and what it says about itself."""

from __future__ import annotations

import functools
import json
import pathlib
import typing
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from taskcore.contract import Arguments, compile_contract
from taskcore.errors import InvalidArguments
from tests.support.contracts import GREET, ORDER, SHIP, TODAY, Item, Order, greet, line_of

# ── what a contract knows ────────────────────────────────────────────────────────────────────────


def test_it_knows_its_function():
    """A contract has the function's name, place and signature as a person reads them."""
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
    here = greet.__code__.co_filename
    assert compile_contract(greet, name="greet").where == f"{here}:{greet.__code__.co_firstlineno}"
    monkeypatch.chdir(pathlib.Path(here).parent)
    assert compile_contract(greet, name="greet").where == f"contracts.py:{greet.__code__.co_firstlineno}"


def test_place_without_a_working_directory(monkeypatch):
    """Where the working directory is gone, files are named in full."""

    def gone(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr("os.path.relpath", gone)
    assert (
        compile_contract(greet, name="greet").where == f"{greet.__code__.co_filename}:{greet.__code__.co_firstlineno}"
    )


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
    assert contract.invoke(contract.function, contract.bind(("a",), {})) == ["traced", "hello a! "]


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
    assert contract.invoke(task, contract.unpack(contract.pack((1, 2), {"d": 4}), 1)) == [1, 2, 3, 4, 5]
    assert GREET.invoke(greet, GREET.bind(("a",), {"times": 2})) == "hello a! hello a! "

    def key(*args: int, **kwargs: int) -> tuple[Any, Any]:
        return args, kwargs

    assert contract.invoke(key, contract.bind((1, 2), {"d": 4})) == ((1, 2, 3), {"d": 4, "e": 5})


def test_no_parameters():
    """A task may have no parameters and no annotation at all."""

    def tick(): ...

    contract = compile_contract(tick, name="tick")
    assert contract.pack((), {}) == b"{}"
    assert contract.invoke(lambda: 7, contract.unpack(b"{}", 1)) == 7
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
    assert contract.invoke(scope["task"], arguments) == (3, 2)


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
