"""Outages: one log line when broker or store is lost, one when it is back, and growing pauses in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio

from taskcore.contract.codec import first_line
from taskcore.errors import BrokerUnavailable
from taskcore.observe import Events
from taskcore.toolkit.logging import logger

__all__ = ["Outage", "OutageTracker"]

log = logger("taskcore.worker")

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  #: seconds between two attempts to reach a broker
ASK_EVERY = 0.4  #: seconds between two questions whether it is back


class OutageTracker:
    """A broker or store as all parts of a worker see it: lost when one part cannot reach it, back when all can.

    :param what: its name in the log.
    """

    def __init__(self, what: str, events: Events) -> None:
        self._what = what
        self._events = events
        self._since = 0.0
        self._parts: set[Outage] = set()

    @property
    def is_lost(self) -> bool:
        """Whether a part cannot reach it."""
        return bool(self._parts)

    def member(self) -> Outage:
        """Make the view of one part, such as the reader of a pool or the settler."""
        return Outage(self)

    def lost(self, part: Outage, error: BaseException) -> None:
        """Note that a part cannot reach it."""
        if not self._parts:
            self._since = anyio.current_time() - getattr(error, "gone_for", 0.0)
            log.warning("%s lost: %s; running jobs go on, reconnecting", self._what, first_line(error))
            self._events.emit("broker.lost", what=self._what, error=error)
        self._parts.add(part)

    def found(self, part: Outage) -> None:
        """Note that a part can reach it again."""
        self._parts.discard(part)
        if not self._parts:
            seconds = anyio.current_time() - self._since
            log.warning("%s back after %.1f s", self._what, seconds)
            self._events.emit("broker.back", what=self._what, seconds=seconds)


class Outage:
    """One part's view."""

    def __init__(self, outages: OutageTracker) -> None:
        self._outages = outages
        self._pause = 0.0
        self._misled = False  # it answered a question, and then failed nevertheless
        self.is_on = False  #: whether it failed when it was last tried

    async def failed(self, error: BaseException, ask: Callable[[], Awaitable[object]] | None = None) -> None:
        """Note that it failed, and wait a little longer each time.

        :param ask: a cheap question; the wait ends when it is answered.
        """
        self._outages.lost(self, error)
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if self.is_on else FIRST_PAUSE
        self.is_on = True
        with anyio.move_on_after(self._pause):
            while ask is not None and not self._misled:
                await anyio.sleep(ASK_EVERY)
                with suppress(BrokerUnavailable):
                    await ask()
                    self._misled = True  # unless it works now, as well as it answers
                    return
            await anyio.sleep_forever()

    async def outlast(self, error: BrokerUnavailable, work: Callable[[], Awaitable[T]]) -> T:
        """Do again what just failed, as often as it takes, and return what it returns."""
        while True:
            await self.failed(error)
            try:
                result = await work()
            except BrokerUnavailable as again:
                error = again
            else:
                self.recovered()
                return result

    def recovered(self) -> None:
        """Note that it works."""
        if self.is_on:
            self.is_on = self._misled = False
            self._outages.found(self)
