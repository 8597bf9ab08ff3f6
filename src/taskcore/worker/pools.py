"""Lanes: queues whose jobs run in the same kind of place.

A worker has room for a hundred coroutines but for sixteen threads and two processes. If it received a hundred jobs
that need a process, ninety-eight would wait in its hands, with their leases running, and nothing else could start. So
queues that hold only tasks for threads, or only tasks for processes, have a lane of their own with room for as many as
can run. Within a lane earlier queues come first; between lanes nobody waits for anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anyio

from taskcore.options import RunsIn
from taskcore.task import Task
from taskcore.worker.pace import Throughput

__all__ = ["Pool", "pools_of"]

PREFETCH_SECONDS = 0.1  #: seconds of work that may wait in the inbox, so that slots never wait for the broker …
PREFETCH_LIMIT = 1_000  #: … and how many jobs that may be at most


class Pool:
    """Some queues, how many of their jobs can run at once, and how many are in hand and not finished."""

    __slots__ = ("active", "limit", "news", "queues", "throughput")

    def __init__(self, queues: tuple[str, ...], limit: int) -> None:
        self.queues = queues
        self.limit = limit
        self.active = 0
        self.throughput = Throughput()
        self.news: anyio.Event | None = None

    def room(self, idle: int, waiting: int) -> int:
        """How many jobs to receive now, with so many idle slots and so many jobs waiting for one."""
        ahead = min(int(self.throughput.rate() * PREFETCH_SECONDS), PREFETCH_LIMIT)
        return min(idle - waiting, self.limit - self.active) + ahead

    async def wait(self) -> None:
        """Wait until there may be room."""
        self.news = anyio.Event()
        await self.news.wait()
        self.news = None

    def notify(self) -> None:
        """There may be room."""
        if self.news is not None:
            self.news.set()


def pools_of(
    queues: Sequence[str], tasks: Iterable[Task[..., Any]], *, concurrency: int, rooms: Mapping[RunsIn, int]
) -> list[Pool]:
    """The lanes of a worker, each with its queues in the order given.

    :param rooms: how many jobs can run in threads and in processes.
    """
    kinds: dict[str, set[RunsIn]] = {queue: set() for queue in queues}
    for task in tasks:
        if task.options.queue in kinds:
            kinds[task.options.queue].add(task.options.runs_in)
    lanes: dict[RunsIn, list[str]] = {}
    for queue in queues:
        [kind, *others] = kinds[queue] or {"loop"}
        lanes.setdefault("loop" if others else kind, []).append(queue)
    return [Pool(tuple(names), min(rooms.get(kind, concurrency), concurrency)) for kind, names in lanes.items()]
