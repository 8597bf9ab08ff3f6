"""Counts: a worker tells the store how many jobs it has parked in each queue, for ``app.stats``.

A parked job is one that is scheduled at the broker, which does not look into it. So the worker that parked it counts it
until it is due; then it goes to some worker again. A service of its own writes the counts, once a second at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil, inf

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord
from taskcore.records.names import parked_in_name
from taskcore.records.parked import find_parked_jobs
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.logging import logger

__all__ = ["ParkedCounts"]

log = logger("taskcore.worker")

WRITE_EVERY = 1.0  #: seconds between two counts
WRITE_TRIES = 5  #: to write a count beside other workers; the next second brings the next count


class ParkedCounts:
    """Counts the jobs that one worker has parked, and tells the store.

    :param worker: its name.
    :param clock: seconds since the epoch.
    """

    def __init__(self, store: Store, *, worker: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._worker = worker
        self._clock = clock
        self._due: dict[str, Counter[int]] = {}  #: for each queue how many jobs are due in each second
        self._written: dict[str, tuple[int, int]] = {}
        self._changed = anyio.Event()

    def add(self, queue: str, seconds: float) -> None:
        """Count a job that is parked for some seconds."""
        self._due.setdefault(queue, Counter())[ceil(self._clock() + seconds)] += 1
        self._changed.set()

    async def run(self) -> None:
        """Tell the store whenever the counts have changed, until cancelled."""
        while True:
            changed = self._changed = anyio.Event()
            for queue in list(self._due):
                await self._tell(queue)
            soonest = min((second for due in self._due.values() for second in due), default=inf)
            if self._due:
                await anyio.sleep(WRITE_EVERY)
            with anyio.move_on_after(max(soonest - self._clock(), 0)):
                await changed.wait()

    async def _tell(self, queue: str) -> None:
        now = self._clock()
        due = self._due[queue] = Counter({second: count for second, count in self._due[queue].items() if second > now})
        counts = due.total(), max(due, default=0)
        try:
            if self._written.get(queue) != counts and await self._write(queue, *counts, now=now):
                self._written[queue] = counts
        except (BrokerUnavailable, StoreRefused, UnreadableRecord) as error:
            log.debug("the count of parked jobs in queue %s is not written: %s", queue, error.what)
        if not due:
            del self._due[queue]
            self._written.pop(queue, None)

    async def _write(self, queue: str, count: int, until: float, *, now: float) -> bool:
        """Write this worker's part of the record; False if other workers were always quicker."""
        for _ in range(WRITE_TRIES):
            parked, expect = await find_parked_jobs(self._store, queue, now)
            parked.pop(self._worker, None)
            if count:
                parked[self._worker] = count, until
            if expect is ABSENT and not parked:
                return True
            keep = max((due for _, due in parked.values()), default=now) - now
            value = msgspec.json.encode(parked) if parked else None
            write = Write(key=parked_in_name(queue), value=value, expect=expect, keep=max(keep, WRITE_EVERY))
            [answer] = await self._store.put_many([write])
            if not isinstance(answer, Conflict):
                return True
        return False
