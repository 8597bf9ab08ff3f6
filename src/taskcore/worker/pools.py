"""Pools: queues whose jobs run in the same kind of place, and how many of their jobs may be received now.

A worker has room for a hundred coroutines but for sixteen threads and two processes. If it received a hundred jobs
that need a process, ninety-eight would wait in its hands, with their leases running, and nothing else could start. A
queue that holds only tasks for threads, or only tasks for processes, is therefore in a pool of its own, with room for
as many jobs as can run. A queue with a limit of its own is alone in its pool. Within a pool earlier queues come first;
pools do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

from taskcore.options import RunsIn
from taskcore.task import Task
from taskcore.worker.options import WorkerOptions

__all__ = ["Pool", "pools_of"]

PREFETCH_SECONDS = 0.1  #: seconds of work that may wait in the inbox, so that slots never wait for the broker …
PREFETCH_LIMIT = 1_000  #: … and how many jobs that may be at most
RATE_SECONDS = 0.05  #: seconds over which the throughput is measured at least


class Pool:
    """Some queues, how many of their jobs can run at once, and how many are in hand and have not ended.

    :ivar ended: the jobs that have ended since the throughput was last measured.
    :ivar changed: to be set when there may be room; None while no reader waits.
    """

    __slots__ = ("_rate", "_since", "active", "changed", "ended", "limit", "queues")

    def __init__(self, queues: tuple[str, ...], limit: int) -> None:
        self.queues = queues
        self.limit = limit
        self.active = 0
        self.ended = 0
        self.changed: anyio.Event | None = None
        self._since = float("-inf")
        self._rate = 0.0

    def room(self, idle: int, waiting: int) -> int:
        """Compute how many jobs to receive now, with so many idle slots and so many jobs waiting for one."""
        ahead = min(int(self._throughput() * PREFETCH_SECONDS), PREFETCH_LIMIT)
        return min(idle - waiting, self.limit - self.active) + ahead

    async def wait(self) -> None:
        """Wait until there may be room."""
        self.changed = anyio.Event()
        await self.changed.wait()
        self.changed = None

    def _throughput(self) -> float:
        """Return the jobs per second, over the time since it was last measured."""
        now = anyio.current_time()
        span = now - self._since
        if span >= RATE_SECONDS:
            self._rate = self.ended / span
            self._since = now
            self.ended = 0
        return self._rate


class StrictPool(Pool):
    """A pool that never has more jobs in hand than can run at once, so that none waits in the slot of another pool."""

    __slots__ = ()

    def room(self, idle: int, waiting: int) -> int:
        """Compute how many jobs to receive now."""
        return min(idle - waiting, self.limit - self.active)


def pools_of(options: WorkerOptions, tasks: Iterable[Task[..., Any]]) -> list[Pool]:
    """Make the pools of a worker, each with its queues in the order given."""
    queues, own = options.queues, options.queue_limits
    most = options.concurrency - sum(own.values())
    limits: dict[RunsIn, int] = {"thread": options.threads, "process": options.processes}
    kinds: dict[str, set[RunsIn]] = {queue: set() for queue in queues}
    for task in tasks:
        if task.options.queue in kinds:
            kinds[task.options.queue].add(task.options.runs_in)
    grouped: dict[RunsIn, list[str]] = {}
    alone: list[Pool] = []
    for queue in queues:
        [kind, *others] = kinds[queue] or {"loop"}
        place: RunsIn = "loop" if others else kind
        if queue in own:
            alone.append(StrictPool((queue,), min(limits.get(place, own[queue]), own[queue])))
        else:
            grouped.setdefault(place, []).append(queue)
    kind_of_pool = StrictPool if alone else Pool
    shared = [kind_of_pool(tuple(names), min(limits.get(kind, most), most)) for kind, names in grouped.items()]
    return [*alone, *shared]
