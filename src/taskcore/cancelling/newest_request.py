"""The newest request to cancel, read so seldom that no job pays for it, and never too long ago.

A worker may act on what it has read for ``READ_VALID_FOR``; see ``records/cancels.py`` for why that is strict. The
first job that starts after half of that time reads anew, while others go on; only when the time is over they wait, too.
A worker that starts no jobs reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from taskcore.records.cancels import READ_VALID_FOR, Cancels
from taskcore.store import Version
from taskcore.toolkit.timeouts import loop_clock

__all__ = ["NewestRequest"]


class NewestRequest:
    """Knows the newest request to cancel.

    :ivar last_read: which that was, perhaps long ago; None before the first look.
    """

    def __init__(self, cancels: Cancels) -> None:
        self._cancels = cancels
        self.last_read: Version | None = None
        self._sent = float("-inf")  # when it was read: before the read began
        self._due = float("-inf")  # when the next job has to look closer: to read anew, or to wait for a read
        self._reading: anyio.Event | None = None
        self._now: Callable[[], float] = anyio.current_time

    def current(self) -> Version | None:
        """Return the newest request if it was read a moment ago; None: ask ``newest``."""
        return self.last_read if self._now() < self._due else None

    async def newest(self) -> Version:
        """Return the newest request, as of now or of less than ``READ_VALID_FOR`` ago; read it if that is due.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        if self.last_read is None:
            self._now = loop_clock()
        asked = self._now()
        while True:
            now = self._now()
            # A store may take longer to answer than a read is valid: what was asked for this job counts all the same.
            may_act = self._sent >= asked or now < self._sent + READ_VALID_FOR
            if self._reading is None and now >= self._due and self._sent < asked:
                await self._read()
            elif may_act and self.last_read is not None:
                return self.last_read
            elif self._reading is not None:
                await self._reading.wait()

    async def _read(self) -> None:
        self._reading = over = anyio.Event()
        sent, self._due = self._now(), self._sent + READ_VALID_FOR
        try:
            self.last_read = await self._cancels.newest()
            self._sent, self._due = sent, sent + READ_VALID_FOR / 2
        finally:
            self._reading = None
            over.set()
