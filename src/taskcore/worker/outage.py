"""One log line when the broker goes, one when it is back, and growing pauses in between."""

from __future__ import annotations

import anyio

from taskcore.logs import logger
from taskcore.observe import Events

__all__ = ["Outage"]

log = logger("taskcore.worker")

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  #: seconds between two attempts to reach a broker


class Outage:
    """The state of one connection, as its user sees it."""

    def __init__(self, what: str, events: Events) -> None:
        self._what = what
        self._events = events
        self._since: float | None = None
        self._pause = FIRST_PAUSE

    async def down(self, error: BaseException) -> None:
        """It failed: say so the first time, then wait a little longer each time."""
        if self._since is None:
            self._since = anyio.current_time()
            log.warning("%s lost: %s; running jobs go on, trying again", self._what, _first_line(error))
            self._events.emit("broker.lost", what=self._what, error=error)
        await anyio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def up(self) -> None:
        """It works: say so if it did not before."""
        if self._since is not None:
            seconds = anyio.current_time() - self._since
            log.warning("%s back after %.1f s", self._what, seconds)
            self._events.emit("broker.back", what=self._what, seconds=seconds)
            self._since = None
            self._pause = FIRST_PAUSE


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__qualname__
