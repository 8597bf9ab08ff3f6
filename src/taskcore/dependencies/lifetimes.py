"""What is open, and how it is closed: in peace after an error, and in the task that opened it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from taskcore.dependencies.depends import name_of
from taskcore.dependencies.plan import Opening, OpeningKind
from taskcore.errors import InvalidContract, NotRunning
from taskcore.toolkit.logging import logger

__all__ = ["CLOSING_LIMIT", "HeldDependency", "closing_in_peace", "opened", "plain_value"]

log = logger("taskcore.dependencies")

CLOSING_LIMIT = 10.0  #: seconds for closing, after an error or a cancellation, and when the worker ends


@contextmanager
def closing_in_peace(what: str) -> Iterator[Callable[[BaseException], None]]:
    """Yield a function to be called when closing begins because of an error.

    From then on no cancellation interrupts the closing, but a time limit does.
    """
    failure: BaseException | None = None

    def protect(error: BaseException) -> None:
        nonlocal failure
        if failure is None:
            failure = error
            around.shield, around.deadline = True, anyio.current_time() + CLOSING_LIMIT

    with anyio.CancelScope() as around:
        yield protect
    if around.cancelled_caught and failure is not None:
        log.error("%s: closing took longer than %g s and was cancelled", what, CLOSING_LIMIT)
        raise failure


@asynccontextmanager
async def opened(opening: Opening, arguments: Mapping[str, Any]) -> AsyncIterator[Any]:
    """Open a dependency outside of its task's function; what is plain runs in a thread."""
    function, in_thread = opening.function, anyio.to_thread.run_sync
    if opening.kind is OpeningKind.ASYNC_GENERATOR:
        async with asynccontextmanager(function)(**arguments) as value:
            yield value
    elif opening.kind is OpeningKind.COROUTINE:
        yield await function(**arguments)
    elif opening.kind is OpeningKind.PLAIN:
        yield await in_thread(partial(plain_value, opening, arguments))
    else:
        manager = contextmanager(function)(**arguments)
        value = await in_thread(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            await in_thread(manager.__exit__, type(error), error, error.__traceback__)
            raise
        await in_thread(manager.__exit__, None, None, None)


def plain_value(opening: Opening, arguments: Mapping[str, Any]) -> Any:
    """Call a plain dependency.

    :raises InvalidContract: it returned a coroutine, of which nothing has run (TC303).
    """
    value = opening.function(**arguments)
    if inspect.iscoroutine(value):
        value.close()
        raise InvalidContract(
            f"the dependency {name_of(opening.function)}() returned a coroutine, of which nothing has run",
            fix="write it as async def, without a plain decorator around it",
        )
    return value


class HeldDependency:
    """One context, entered and left in ``hold``, which is run as a task."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._ready, self._ended, self._closing = anyio.Event(), anyio.Event(), anyio.Event()
        self._around = anyio.CancelScope()
        self._thrown: BaseException | None = None
        self._error: BaseException | None = None
        self._value: Any = None

    async def hold(self) -> None:
        """Enter the context, keep it until ``close``, and leave it."""
        try:
            with self._around:
                async with self._manager as self._value:
                    self._around.shield = True
                    self._ready.set()
                    await self._closing.wait()
                    if self._thrown is not None:
                        raise self._thrown  # noqa: TRY301 - for the context
            if self._around.cancelled_caught:
                log.error("a dependency took longer than %g s to close and was cancelled", CLOSING_LIMIT)
        except BaseException as error:  # raised for those who ask for the value, or close it
            if error is self._thrown:
                return
            self._error = error
            if issubclass(type(error), anyio.get_cancelled_exc_class()):
                self._error = NotRunning("the worker ended while a dependency was opened", fix="start a worker")
                raise
        finally:
            self._ready.set()
            self._ended.set()

    @property
    def has_failed(self) -> bool:
        """Whether it could not be opened, or closed."""
        return self._error is not None

    async def value(self) -> Any:
        """Wait until it is open, and return what it gave.

        :raises BaseException: what it raised instead.
        """
        await self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._value

    async def close(self, thrown: BaseException | None = None, *, limited: bool = False) -> None:
        """Leave the context, with the error of the body, if there is one.

        :raises BaseException: what it raised while it closed, if that is another error.
        """
        if thrown is not None or limited:
            self._around.deadline = anyio.current_time() + CLOSING_LIMIT
        self._thrown = thrown
        self._closing.set()
        await self._ended.wait()
        if self._error is not None:
            raise self._error
