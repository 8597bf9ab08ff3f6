"""The event loops in which an app is open, one after the other.

Connections belong to the loop in which they were made. A call from another loop runs in that loop, if it belongs to
another thread; a call that could only wait for ever is refused. Entries and exits of other loops are carried there too.
An opening whose loop has ended is left behind, with the entries of other loops that are still in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from taskcore.errors import NotRunning

if TYPE_CHECKING:  # declaring tasks needs no event loop
    import asyncio

    import anyio

__all__ = ["AppLoop", "Openings"]

T = TypeVar("T")

#: Opens everything, and returns what closes it. Not a generator: one that is still open when the program ends would be
#: finalized without its event loop.
Connect: TypeAlias = "Callable[[AppLoop], Awaitable[AsyncExitStack]]"

LOOK_EVERY = 0.5  #: seconds between two looks whether the loop still runs, while it does not answer


class AppLoop:
    """The event loop of an app; none until the app opens, and then always the same.

    :ivar loop: of asyncio; None if there is none, or if it is trio's.
    :ivar running: finds the loop that runs at the caller, as ``loop`` has it.
    """

    def __init__(self) -> None:
        self._token: Any = None
        self._pid = os.getpid()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.running: Callable[[], asyncio.AbstractEventLoop | None] = _no_loop

    def adopt(self) -> bool:
        """Make the loop that runs here the app's, unless it has one; tell whether it is the app's."""
        import asyncio  # noqa: PLC0415 - declaring tasks needs no event loop

        from anyio.lowlevel import current_token  # noqa: PLC0415 - as above

        if self.token is None:
            self.running = asyncio._get_running_loop  # noqa: SLF001 - exported for libraries; it does not raise
            self._token, self.loop = current_token(), self.running()
        return bool(self._token == current_token())

    @property
    def token(self) -> Any:
        """The loop, as a token of anyio; None if there is none in this process."""
        return self._token if self._pid == os.getpid() else None

    @property
    def has_ended(self) -> bool:
        """Tell whether the loop was closed, or its program has ended; or it belongs to the parent of a fork."""
        if self._token is None or self._pid != os.getpid():
            return self._pid != os.getpid()
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
        loop, coroutine = self.loop, function(*args)
        try:
            work = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))
        except RuntimeError:  # it was closed a moment ago
            coroutine.close()
            raise _ended() from None
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_EVERY))[0]:
                if not loop.is_running():  # it has ended, and never tells what it did not begin
                    break
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not work.done() or work.cancelled():
            if not loop.is_closed():  # else nothing is left to cancel
                work.cancel()
            raise _ended()
        return work.result()


class Openings:
    """The openings of an app, one after the other. Of all threads, one at a time counts its entry or its exit.

    :param renew: makes anew what is connected in a loop that has ended, or in the parent of a fork.
    """

    def __init__(self, connect: Connect, *, renew: Callable[[], None]) -> None:
        self._connect = connect
        self._renew = renew
        self._lock = Lock()
        self._current = _Opening(connect)
        self._left_behind: Counter[Any] = Counter()  #: entries in openings whose loop has ended, by their own loops

    @property
    def is_open(self) -> bool:
        """Whether the app is entered."""
        return self._current.is_open

    async def enter(self) -> None:
        """Open the app, or join it if it is open.

        :raises NotRunning: it is open in a loop that cannot be reached (TC106).
        """
        opening, is_home = self._join()
        try:
            await (opening.enter() if is_home else opening.app_loop.run(opening.enter))
        except BaseException:
            self._part()
            raise

    async def leave(self) -> None:
        """Close the app if this is the last exit.

        :raises NotRunning: it is open in a loop that cannot be reached (TC106).
        """
        opening = self._current
        app_loop = opening.app_loop
        try:
            if not (self._left_behind[_running_loop()] or app_loop.has_ended):
                await (opening.leave() if app_loop.is_here else app_loop.run(opening.leave))
        finally:
            self._part()

    def _join(self) -> tuple[_Opening, bool]:
        """Count an entry before it is made: until its exit is made, no other loop becomes the app's.

        :returns: the opening, and whether the loop that runs here is its own.
        """
        with self._lock:
            opening = self._current
            if opening.app_loop.has_ended:
                self._renew()
                self._left_behind += opening.living_callers()
                opening = self._current = _Opening(self._connect)
            is_home = opening.app_loop.adopt()
            opening.callers[_running_loop()] += 1
            return opening, is_home

    def _part(self) -> None:
        """Count an exit: of a loop with entries in several openings, those that were left behind come first."""
        with self._lock:
            opening, entry = self._current, Counter([_running_loop()])
            if entry <= self._left_behind:
                self._left_behind -= entry
                return
            opening.callers -= entry
            if not opening.callers and opening.is_closed:
                if opening.is_cut:
                    self._renew()
                self._current = _Opening(self._connect)


class _Opening:
    """One time that an app is open.

    :ivar callers: how many entries each loop has, from before they are made until after their exits.
    :ivar is_cut: it was not closed to the end, because its loop has ended: what was connected there is of no use.
    """

    def __init__(self, connect: Connect) -> None:
        self.app_loop = AppLoop()
        self.callers: Counter[Any] = Counter()
        self.is_cut = False
        self._connect = connect
        self._entries = 0
        self._changing: anyio.Event | None = None
        self._exits = AsyncExitStack()

    @property
    def is_open(self) -> bool:
        """Whether it is entered."""
        return self._entries > 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing is connected or half connected."""
        return self._entries == 0 and self._changing is None

    def living_callers(self) -> Counter[Any]:
        """Return the entries of loops that can still leave."""
        return Counter({loop: n for loop, n in self.callers.items() if loop is not None and not loop.is_closed()})

    async def enter(self) -> None:
        """Open, or join what is open; concurrent entries wait for the first, or for its end."""
        while self._changing is not None:
            await self._changing.wait()
        if self._entries == 0:
            async with self._change():
                self._exits = await self._connect(self.app_loop)
        self._entries += 1

    async def leave(self) -> None:
        """Close if this is the last exit."""
        self._entries -= 1
        if self._entries == 0:
            async with self._change():
                self.is_cut = True
                try:
                    await self._exits.aclose()
                except Exception:  # of what closes; all of it was asked to
                    self.is_cut = self.app_loop.has_ended
                    raise
                self.is_cut = False

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Let others wait while it opens or closes."""
        import anyio  # noqa: PLC0415 - declaring tasks needs no event loop

        self._changing = anyio.Event()
        try:
            yield
        finally:
            self._changing.set()
            self._changing = None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Find the loop that runs here; None if there is none, or if it is trio's."""
    import asyncio  # noqa: PLC0415 - declaring tasks needs no event loop

    return asyncio._get_running_loop()  # noqa: SLF001 - as in adopt()


def _ended() -> NotRunning:
    return NotRunning(
        "the event loop in which this app was open has ended, and its connections with it",
        fix="async with app: … in the loop that runs now; for calls of many short-lived loops: task.sync in a thread",
    )


def _no_loop() -> None:
    """Stand for the search for a loop, until an app is open."""


def _nothing() -> None:
    """Do nothing, in a loop that still takes calls."""
