"""An outer limit for what may never end: it is ended from outside; what ignores even that is left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import anyio.abc

__all__ = ["LeftBehind", "Limited"]

Result = TypeVar("Result")
GRACE = 30.0  #: seconds that something has to end itself when it is cancelled


class LeftBehind(Exception):
    """It was not done in time, and did not end when it was cancelled. It may still run."""


class _Ran(Generic[Result]):
    """What came out of it."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.result: list[Result] = []
        self.error: Exception | None = None


class Limited:
    """Runs one thing at a time, in tasks of a group that outlives them all.

    :param group: may have to be left without waiting for it, which :attr:`stuck` tells.
    """

    def __init__(self, group: anyio.abc.TaskGroup, *, grace: float = GRACE) -> None:
        self._group = group
        self._grace = grace
        self.stuck = 0  #: how many things were left behind

    async def run(self, function: Callable[[], Awaitable[Result]], within: float) -> Result:
        """Return its result.

        :raises TimeoutError: it was not done in time, and has been cancelled.
        :raises LeftBehind: it did not let itself be cancelled either.
        """
        ran = _Ran[Result]()
        scope = anyio.CancelScope()
        self._group.start_soon(_run, function, scope, ran)
        with anyio.move_on_after(within):
            await ran.over.wait()
        late = not ran.over.is_set()
        if late:
            scope.cancel()
            with anyio.move_on_after(self._grace):
                await ran.over.wait()
        if not ran.over.is_set():
            self.stuck += 1
            raise LeftBehind(f"it was not done after {within:g} s, nor did it end when it was cancelled")
        if ran.error is not None:
            raise ran.error
        if not ran.result:
            raise TimeoutError(f"it was not done after {within:g} s, and was ended")
        return ran.result[0]


async def _run(function: Callable[[], Awaitable[Result]], scope: anyio.CancelScope, ran: _Ran[Result]) -> None:
    try:
        with scope:
            ran.result.append(await function())
    except Exception as error:  # noqa: BLE001 - raised again where it is waited for
        ran.error = error
    finally:
        ran.over.set()
