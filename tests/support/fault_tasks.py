"""Tasks that do to their worker what tasks should not, and parts of an app that raise."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio

from taskcore import App, Depends, Retry, current
from taskcore.middleware import Middleware, SettledJob
from taskcore.testing.history import History

__all__ = ["STORM", "BrokenCommit", "break_logging", "declare_faults"]

STORM = 2.0  #: seconds over which the retries of a storm are spread


class Mute(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Unpicklable(Exception):
    """An error that holds what no other process can have."""


def overflow(depth: int = 0) -> int:
    """Call itself until the interpreter refuses."""
    return overflow(depth + 1) + 1


#: What a careless function raises, by the first words of the text that a dead letter has of it.
RAISED: dict[str, Callable[[], BaseException]] = {
    "MemoryError": MemoryError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "Mute": Mute,
    "Unpicklable": lambda: Unpicklable(sys.stdout, lambda: None),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError(b"\xff\x00"), Mute()]),
    "ValueError": lambda: ValueError("x" * 10_000_000),
}


def leave(how: str) -> int:
    """End the copy of a process."""
    if how == "_exit":
        os._exit(0)
    if how == "exit":
        sys.exit(0)
    return 0  # to the worker's code


async def broken_dependency() -> AsyncIterator[int]:
    """Fail before the function has anything."""
    raise RuntimeError("no connection to the shop")
    yield 1


def declare_faults(app: App, history: History, queue: str, who: str) -> None:
    """Declare the tasks."""
    options: dict[str, Any] = {
        "queue": queue,
        "retry": Retry(attempts=2, base=0.05, factor=1.0, jitter="none"),
        "keep_result": 60.0,
    }

    @app.task(name="raise", **options)
    async def careless(kind: str) -> int:
        history.record("start", current().job_id, who=who, attempt=current().attempt)
        if kind == "RecursionError":
            return overflow()
        error = RAISED[kind]()
        raise error

    @app.task(name="stubborn", timeout=0.3, **options)
    async def stubborn(times: int) -> None:
        with history.run(current(), who=who):
            for _ in range(times):
                with suppress(BaseException):  # that is the fault
                    await anyio.sleep(60)

    @app.task(name="endless", timeout=0.3, **(options | {"retry": None}))
    def endless(seconds: float) -> None:
        with history.run(current(), who=who):
            time.sleep(seconds)

    @app.task(name="in_thread", **options)
    def in_thread(number: int, seconds: float) -> int:
        with history.run(current(), who=who):
            time.sleep(seconds)
            return number

    @app.task(name="fork", **options)
    async def fork(how: str) -> int:
        with history.run(current(), who=who):
            child = os.fork()
            if child:
                await anyio.sleep(0.3)
                return child
        if how == "wait":
            await asyncio.sleep(0)  # yields to the event loop, and asks for none
            await anyio.sleep(60)
        return leave(how)

    @app.task(name="fork_in_thread", **options)
    def fork_in_thread(how: str) -> int:
        with history.run(current(), who=who):
            child = os.fork()
            if child:
                time.sleep(0.3)
                return child
        return leave(how)

    @app.task(name="unstorable", **options)
    async def unstorable(size: int) -> str:
        with history.run(current(), who=who):
            wrong: Any = object()
            return "x" * size or wrong

    @app.task(name="depends", **options)
    async def depends(number: int, shop: int = Depends(broken_dependency)) -> int:
        with history.run(current(), who=who):
            return number

    @app.task(name="storm", **options | {"retry": Retry(attempts=2, base=STORM, factor=1.0)})
    async def storm(number: int) -> int:
        with history.run(current(), who=who):
            if current().attempt == 1:
                raise ConnectionError("the shop is down")
            return number

    @app.task(name="keyed", key="order", **options)
    async def keyed(order: str) -> str:
        with history.run(current(), who=who):
            history.effect(order, current().job_id, who=who)
            return order


# ── parts of an app that raise ───────────────────────────────────────────────────────────────────


class BrokenCommit(Middleware):
    """A middleware that fails behind the ends of jobs."""

    async def commit(self, jobs: Sequence[SettledJob], call_next: Callable[[], Awaitable[None]]) -> None:
        """Fail once they are durable."""
        await call_next()
        raise RuntimeError(f"no metrics today for {len(jobs)} jobs")


def break_logging(app: App) -> None:
    """Add a listener, a hook and a handler of logs, each of which raises."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("the disk is full")

    logging.getLogger("taskcore").addHandler(Broken())

    @app.on_event
    def listen(event: Any) -> None:
        raise RuntimeError(event.name)

    @app.on_dead_letter
    async def tell(letter: Any) -> None:
        raise RuntimeError("no pager today")
