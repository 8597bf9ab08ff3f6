"""Values: what a call of a function returned, waited for until it is one. What comes back decides.

An ``async def`` behind a plain decorator looks like a plain function, and its call returns a coroutine; so does a
function that forgot an ``await``. Nothing of their work has begun yet: a job whose coroutine is dropped succeeds
without a run.
"""

from __future__ import annotations

import inspect
from types import NoneType
from typing import Any

import anyio

from taskcore.errors import InvalidContract

__all__ = ["FINISHED", "finish", "finish_without_loop"]

#: The types of nearly all results: nothing is left to wait for.
FINISHED = frozenset({NoneType, bool, int, float, str, bytes, list, dict, tuple, set})


async def finish(value: Any) -> Any:
    """Wait for what a function returned, as often as it takes.

    :raises InvalidContract: it is a generator, of which nothing has run.
    """
    while inspect.isawaitable(value):
        value = await value
    _refuse_generator(value)
    return value


def finish_without_loop(value: Any) -> Any:
    """Wait in an event loop of its own, where none runs.

    :raises InvalidContract: it is a generator, of which nothing has run.
    """
    if inspect.isawaitable(value):
        return anyio.run(finish, value)
    _refuse_generator(value)
    return value


def _refuse_generator(value: Any) -> None:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise InvalidContract(
            f"the function returned a generator, {value.__qualname__}(), of which nothing has run",
            fix="return a list, or enqueue one job for each item",
        )
