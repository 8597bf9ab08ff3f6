"""The event loop in which an app is open.

Connections belong to the loop in which they were made. A call from another loop runs in that loop, if it belongs to
another thread; a call that could only wait for ever is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from taskcore.errors import NotRunning

if TYPE_CHECKING:  # declaring tasks needs no event loop
    import asyncio

__all__ = ["AppLoop"]

T = TypeVar("T")

LOOK_EVERY = 0.5  #: seconds between two looks whether the loop still runs, while it does not answer


class AppLoop:
    """The event loop of an app; none while the app is closed.

    :ivar loop: of asyncio; None if there is none, or if it is trio's.
    :ivar running: finds the loop that runs at the caller, as ``loop`` has it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._token: Any = None
        self._pid = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.running: Callable[[], asyncio.AbstractEventLoop | None] = _no_loop

    def adopt(self) -> bool:
        """Make the loop that runs here the app's, unless it has one; tell whether it is the app's."""
        import asyncio  # noqa: PLC0415 - declaring tasks needs no event loop

        from anyio.lowlevel import current_token  # noqa: PLC0415 - as above

        self.running = asyncio._get_running_loop  # noqa: SLF001 - exported for libraries; it does not raise
        with self._lock:
            if self.token is None:
                self._token, self._pid, self.loop = current_token(), os.getpid(), self.running()
            return bool(self._token == current_token())

    def forget(self) -> None:
        """Have no loop: the app is closed, or its loop belongs to the parent of a fork."""
        self._token = self.loop = None

    @property
    def token(self) -> Any:
        """The loop, as a token of anyio; None if there is none in this process."""
        return self._token if self._pid == os.getpid() else None

    @property
    def has_ended(self) -> bool:
        """Tell whether the loop was closed, or its program has ended, with the app open in it."""
        if self.token is None:
            return False
        if self.loop is not None:
            return self.loop.is_closed()
        try:
            self._token.native_token.run_sync_soon(_nothing)
        except Exception:  # noqa: BLE001 - trio's own, without importing trio
            return True
        return False

    @property
    def is_here(self) -> bool:
        """Tell whether a connection may be used: it runs here, or nothing runs here that could be another loop."""
        running = self.running()
        return running is None or running is self.loop

    def require_here(self, what: str, fix: str) -> None:
        """Refuse what cannot run in another loop.

        :raises NotRunning: another loop runs here (TC106).
        """
        if self.token is not None and not self.is_here:
            raise NotRunning(f"this app is open in another event loop, and {what}", fix=fix)

    def require_running(self) -> None:
        """Refuse to wait for a loop that does not run.

        :raises NotRunning: it does not run now (TC106).
        """
        if self.has_ended:
            raise _ended()
        if self.loop is not None and not self.loop.is_running():
            raise NotRunning(
                "this app is open in an event loop that does not run now, so the call would wait for ever",
                facts=["it was opened there, perhaps by a fixture or a cell of a wider scope"],
                fix="open the app in the loop that makes the call, or run both in one loop "
                '(pytest-asyncio: the same loop_scope for fixture and test; anyio\'s plugin: one "anyio_backend")',
            )

    async def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function in the app's loop, from another one, and wait; cancelling the wait cancels it.

        :raises NotRunning: that loop cannot be reached from here (TC106).
        """
        import asyncio  # noqa: PLC0415 - declaring tasks needs no event loop

        self.require_running()
        if self.loop is None or self.running() is None:
            raise NotRunning(
                "this app is open in another event loop, and trio's loops cannot reach each other",
                fix="use the app in the loop that opened it, or make an app for each",
            )
        loop = self.loop
        work = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(*args), loop))
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_EVERY))[0]:
                if not loop.is_running():  # it has ended, and never tells what it did not begin
                    break
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not work.done() or work.cancelled():
            work.cancel()
            raise _ended()
        return work.result()


def _ended() -> NotRunning:
    return NotRunning(
        "the event loop in which this app was open has ended, and its connections with it",
        fix="async with app: … in the loop that runs now; for calls of many short-lived loops: task.sync in a thread",
    )


def _no_loop() -> None:
    """Stand for the search for a loop, until an app is open."""


def _nothing() -> None:
    """Do nothing, in a loop that still takes calls."""
