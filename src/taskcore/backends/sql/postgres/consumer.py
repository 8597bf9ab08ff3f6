"""How sleeping workers learn of jobs, and how far a source has come in each queue.

A worker that finds nothing notes in the database until when it sleeps, looks once more, then waits for a notification.
A program that has stored a job asks afterwards whether a worker sleeps there, and notifies only then: each commit that
notifies waits for the one before it, on the whole server, so under load there is none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final

import anyio

from taskcore.backends.sql.postgres.layout import WAKE
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["LONGEST_WAIT", "Positions", "Waker"]

log = logger("taskcore.backends.sql")

LONGEST_WAIT: Final = 2.5  #: seconds; an idle worker looks this often, because a notification may be lost
WAKE_EVERY: Final = 0.005  #: seconds, at least, between two questions whether a worker sleeps
FLUSH_TIMEOUT: Final = 2.0  #: seconds for the last question when the backend is closed
OVERLAP: Final = 5.0  #: seconds behind the last due time in which a transaction may commit late
FULL_LOOK_EVERY: Final = 1.0  #: seconds, at least, between two looks from the beginning while there is work
FULL_LOOK_SHARE: Final = 50.0  #: times the duration of the last one, at least: no more than two hundredths of the time


class Positions:
    """How far one source has come in each of its queues, and when it looks from the beginning again."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = list(queues)
        self._lows = dict.fromkeys(queues, 0)
        self._sinces = dict.fromkeys(queues, -math.inf)
        self._looked = -math.inf  # when the last look from the beginning ended
        self._pause = 0.0  # until the next one, at least

    def seconds_to_full_look(self, *, idle: bool) -> float:
        """Return in how many seconds to look from the beginning; a source that finds nothing does so sooner."""
        pause = self._pause if idle else max(FULL_LOOK_EVERY, self._pause)
        return self._looked + pause - time.monotonic()

    def columns(self, *, full: bool) -> dict[str, Any]:
        """Return where to look, as the statement takes it."""
        if full:
            lows, sinces = [0] * len(self._queues), [-math.inf] * len(self._queues)
        else:
            lows, sinces = list(self._lows.values()), list(self._sinces.values())
        return {"queues": self._queues, "lows": lows, "sinces": sinces}

    def looked(self, seconds: float) -> None:
        """Note that a look from the beginning took so long."""
        self._looked, self._pause = time.monotonic(), seconds * FULL_LOOK_SHARE

    def found(self, queue: str, number: int, due: float | None) -> None:
        """Note a row that was leased."""
        if due is None:
            self._lows[queue] = max(self._lows[queue], number + 1)
        else:
            self._sinces[queue] = max(self._sinces[queue], due - OVERLAP)


class Waker:
    """Asks, after jobs were stored, whether a worker sleeps on their queues, and wakes it.

    :param pool: for the question.
    """

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._queues: set[str] = set()
        self._tasks = TaskSet("PostgreSQL backend")
        self._asked = -math.inf

    def note(self, queues: Iterable[str]) -> None:
        """Ask soon whether a worker sleeps on these queues."""
        self._queues.update(queues)
        if self._queues and not self._tasks:
            self._tasks.start(self._run())

    async def close(self) -> None:
        """Ask the last question, unless it takes too long."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(FLUSH_TIMEOUT):
                await self._tasks.wait_closed()
            await self._tasks.cancel()

    async def _run(self) -> None:
        while self._queues:
            await asyncio.sleep(max(self._asked + WAKE_EVERY - time.monotonic(), 0.0))
            queues, self._queues = self._queues, set()
            try:
                await self._pool.run(partial(_wake, queues=queues), repeatable=True)
            except BrokerUnavailable as error:  # sleepers look again by themselves
                log.info("cannot wake sleeping workers now: %s", error.what)
            self._asked = time.monotonic()


async def _wake(connection: Connection, queues: Collection[str]) -> None:
    await connection.execute(WAKE, {"queues": list(queues)}, prepare=True)
