"""Declaring dependencies: they are no part of the contract, and what cannot work is refused at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest

from taskcore import App, Depends, InvalidArguments, InvalidContract, NotRunning, Router


class Db:
    """A connection, which cannot travel."""


async def get_db() -> AsyncIterator[Db]:
    """Open a connection."""
    yield Db()


def get_name() -> str:
    """Give a name."""
    return "Ada"


@pytest.fixture
def router():
    """Make a router."""
    return Router()


def test_a_dependency_is_no_part_of_the_contract(router):
    """Neither payload, schema, key nor signature has the parameter."""

    @router.task(key=("order", "amount"))
    async def charge(order: int, db: Db = Depends(get_db), amount: float = 1.0) -> str: ...

    assert charge.contract.parameters == ("order", "amount")
    assert charge.contract.schema()["parameters"]["properties"].keys() == {"order", "amount"}
    assert "db" not in charge.contract.signature
    assert charge.call(7, amount=2.0).payload == b'{"order":7,"amount":2.0}'


@pytest.mark.parametrize("given", [{"db": Db()}, {"db": None}])
def test_giving_a_dependency_is_refused(router, given):
    """A call that gives the value of a dependency is refused, and the error says that the worker opens it."""

    @router.task
    async def charge(order: int, db: Db = Depends(get_db)) -> str: ...

    with pytest.raises(InvalidArguments, match="db: a dependency, which the worker opens"):
        charge.call(7, **given)


def test_what_follows_a_dependency_is_given_by_name(router):
    """A positional argument cannot slip into the place of a dependency."""

    @router.task
    async def charge(order: int, db: Db = Depends(get_db), amount: float = 1.0) -> str: ...

    with pytest.raises(InvalidArguments, match="takes 1 positional arguments, got 2"):
        charge.call(7, 2.0)


def test_an_annotation_alone_is_refused(router):
    """`Annotated[Db, Depends(…)]` without a default would make callers give the parameter; the error names the form."""
    with pytest.raises(InvalidContract, match=r"write db: … = Depends\(…\)"):

        @router.task
        async def charge(order: int, db: Annotated[str, Depends(get_name)]) -> str: ...


def test_a_circle_is_refused():
    """A dependency that needs itself by way of others is refused when the task is declared."""

    def first(other: str = "") -> str: ...

    def second(other: str = Depends(first)) -> str: ...

    first.__defaults__ = (Depends(second),)

    with pytest.raises(InvalidContract, match="needs itself: first → second → first"):

        @Router().task
        async def charge(order: int, name: str = Depends(first)) -> str: ...


def test_what_lives_longer_cannot_need_what_ends_sooner(router):
    """A dependency of the worker cannot need one of a job."""

    def get_repo(name: str = Depends(get_name)) -> str: ...

    with pytest.raises(InvalidContract, match="opened once for a worker, and name for each job"):

        @router.task
        async def charge(order: int, repo: str = Depends(get_repo, scope="app")) -> str: ...


def test_a_dependency_needs_defaults(router):
    """A worker gives a dependency nothing but dependencies."""

    def get_user(user: int) -> str: ...

    with pytest.raises(InvalidContract, match=r"get_user.* no value for user"):

        @router.task
        async def charge(order: int, name: str = Depends(get_user)) -> str: ...


def test_a_decorated_generator_is_refused(router):
    """A context manager would be handed over unopened."""
    with pytest.raises(InvalidContract, match="the bare function, without @contextmanager"):

        @router.task
        async def charge(order: int, db: object = Depends(asynccontextmanager(get_db))) -> str: ...


@pytest.mark.parametrize("wrong", [{"function": 7}, {"function": get_name, "scope": "request"}])
def test_an_impossible_dependency_is_refused(wrong):
    """`Depends` takes a function and one of two scopes."""
    with pytest.raises(InvalidContract, match=r"Depends\("):
        Depends(wrong.pop("function"), **wrong)


def test_a_positional_dependency_is_refused(router):
    """A parameter that has no name for callers cannot be filled in by name."""
    with pytest.raises(InvalidContract, match="move it behind the /"):

        @router.task
        async def charge(order: int, name: str = Depends(get_name), /) -> str: ...


def test_a_generator_cannot_be_a_task_with_dependencies_either(router):
    """The problems of a function are found as if it had no dependencies."""
    with pytest.raises(InvalidContract, match="it is a generator"):

        @router.task
        def charge(order: int, name: str = Depends(get_name)) -> Iterator[str]:
            yield name


def test_a_test_calls_the_function_with_its_own_values(router):
    """A direct call with all dependencies runs the function at once, without a worker."""

    @router.task
    def charge(order: int, name: str = Depends(get_name)) -> str:
        return f"{order} {name}"

    assert charge(7, name="Bob") == charge(7, "Bob") == "7 Bob"


def test_a_direct_call_without_a_worker_says_what_is_missing(router):
    """Outside of a worker nothing opens dependencies: the error says so, and names what was left out."""

    @router.task
    def charge(order: int, name: str = Depends(get_name), other: str = Depends(get_name)) -> str: ...

    with pytest.raises(NotRunning, match="without its dependencies, and no worker here opens them"):
        charge(7)
    with pytest.raises(InvalidArguments, match="without other"):
        charge(7, name="Bob")


@pytest.mark.parametrize("wrong", ["up", get_db])
def test_a_lifespan_is_a_context_manager(wrong):
    """A bare generator, or no function at all, is refused when the app is made."""
    with pytest.raises(Exception, match="lifespan: expected a function under @asynccontextmanager"):
        App("memory://", lifespan=wrong)
