"""Tasks whose calls return something to wait for, although they are no ``async def`` to look at."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from taskcore import Router, current
from taskcore.task import Task

__all__ = ["TASKS", "router"]


async def write(path: str) -> str:
    """Leave a trace of the run; wait in between, as a task does; tell the job."""
    await anyio.sleep(0.001)
    async with await anyio.open_file(path, "a") as file:
        await file.write("ran\n")
    return current().job_id


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function as most decorators do."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def forgetful(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function in an async one that forgets to wait."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def bridged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an async function in one that waits for it in a loop of its own."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


class Later:
    """Something to wait for that is no coroutine."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __await__(self) -> Any:
        return write(self.path).__await__()


class AsyncCall:
    """An object whose call is async."""

    async def __call__(self, path: str) -> str:
        return await write(path)


async def decorated(path: str) -> str:
    """Be wrapped by decorators."""
    return await write(path)


def of_partial(path: str) -> str:
    """Call a partial of an async function."""
    return functools.partial(write, path)()  # type: ignore[return-value]


def of_object(path: str) -> str:
    """Call an object whose call is async."""
    return AsyncCall()(path)  # type: ignore[return-value]


def of_later(path: str) -> str:
    """Return what can be waited for."""
    return Later(path)  # type: ignore[return-value]


def promised(path: str) -> Awaitable[str]:
    """Return what can be waited for, and say so."""
    return write(path)


def nested(path: str) -> str:
    """Return a coroutine that returns a coroutine."""
    return forgetful(write)(path)  # type: ignore[no-any-return]


FORMS: dict[str, Callable[..., Any]] = {
    "traced": traced(decorated),
    "traced twice": traced(traced(decorated)),
    "forgetful": forgetful(decorated),
    "partial": of_partial,
    "object": of_object,
    "later": of_later,
    "promised": promised,
    "nested": nested,
    "bridged": bridged(decorated),
}
IN_LOOP_ONLY, NOT_IN_LOOP = ("forgetful", "promised"), ("bridged",)

router = Router()
TASKS: dict[tuple[str, str, bool], Task] = {}


def _declare(form: str, place: str, kept: bool) -> None:
    function = FORMS[form]
    name = f"{place}_{form.replace(' ', '_')}_{'kept' if kept else 'gone'}"
    copy = functools.update_wrapper(_calling(form, function), function)
    copy.__qualname__ = copy.__name__ = name
    keep: dict[str, Any] = {} if kept else {"keep_result": None}
    TASKS[form, place, kept] = task = router.task(name=name, runs_in=place, **keep)(copy)  # type: ignore[arg-type]
    globals()[name] = task  # a process finds its task by module and name


def _calling(form: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of its own for each task."""
    if form == "forgetful":

        async def call(path: str) -> Any:
            return await function(path)

        return call

    def plain(path: str) -> Any:
        return function(path)

    return plain


for _form in FORMS:
    for _place in ("loop", "thread", "process"):
        wrong = (_place != "loop" and _form in IN_LOOP_ONLY) or (_place == "loop" and _form in NOT_IN_LOOP)
        for _kept in (True, False):
            if not wrong:
                _declare(_form, _place, _kept)


@router.task(name="generator", keep_result=None)
@traced
def generator(path: str) -> Any:
    """Be a generator behind a decorator."""
    yield path


@router.task(name="async_generator", keep_result=None)
@traced
async def async_generator(path: str) -> Any:
    """Be an async generator behind a decorator."""
    yield path


@router.task(name="process_generator", runs_in="process")
@traced
def process_generator(path: str) -> Any:
    """Be a generator in a process."""
    yield path
