"""The contract of a task: signatures and options that cannot be kept."""

from __future__ import annotations

import enum
import functools
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Self

import annotated_types
import msgspec
import pydantic
import pytest

from taskcore.contract import compile_contract
from taskcore.errors import InvalidContract
from tests.support.contracts import Item, Order, Receipt, from_v1, from_v2, greet, refusal

if TYPE_CHECKING:
    from nowhere import Missing


class Plain:
    """A class of which msgspec knows nothing."""

    def method(self, number: int) -> None:
        """Be a method."""

    @classmethod
    def made(cls, number: int) -> None:
        """Be a class method."""

    def __call__(self, number: int) -> None:
        """Be callable."""


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
    """Yield one value."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Yield one value, asynchronously."""
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
