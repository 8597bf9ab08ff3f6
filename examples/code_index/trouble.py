"""Kill workers and the server in the middle of the work; the index must be complete nevertheless.

This is the purpose of a broker, of leases and of keys, and here they prove it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import msgspec

from examples.code_index.broker import Private
from examples.code_index.progress import Progress
from examples.code_index.workers import Workers

__all__ = ["Plan", "ServerKilled", "Trouble", "WorkerKilled", "make_trouble"]

POLL_SECONDS = 0.01  #: seconds between two reads of the journals
AWAY = 1.0  #: seconds for which a killed server stays down: long enough for every client to notice


class WorkerKilled(msgspec.Struct, frozen=True):
    """A killed worker process, and the number of jobs that it had under way: begun and not settled."""

    number: int
    pid: int
    files_done: int
    under_way: int


class ServerKilled(msgspec.Struct, frozen=True):
    """A killed server, which answered again after some seconds, with the data of its disk.

    :param of: how many servers there were; with several, work continues without it.
    :param away: seconds of the outage; None if it did not come back.
    """

    server: str
    files_done: int
    away: float | None
    of: int = 1

    @property
    def in_short(self) -> str:
        """What was done to the server, as text after its name."""
        part = "" if self.of == 1 else f", one of {self.of}"
        return f"{part}, with SIGKILL; " + (
            "for good" if self.away is None else f"away for {self.away:.2f} s, same data"
        )


class Trouble(msgspec.Struct):
    """What was killed in a run, and how many jobs were begun a second time because of it."""

    workers: list[WorkerKilled] = msgspec.field(default_factory=list)
    servers: list[ServerKilled] = msgspec.field(default_factory=list)
    begun_again: int = 0

    def __bool__(self) -> bool:
        return bool(self.workers or self.servers)

    @property
    def in_short(self) -> str:
        """The same, in one line."""
        parts = []
        if self.workers:
            parts.append(f"{len(self.workers)} worker{'s' * (len(self.workers) != 1)} killed")
        for server in self.servers:
            victim = "the server" if server.of == 1 else f"one of {server.of} servers"
            parts.append(f"{victim} killed {'for good' if server.away is None else 'and started again'}")
        were = "job was" if self.begun_again == 1 else "jobs were"
        return f"{', '.join(parts)}; {self.begun_again:,} {were} begun a second time"


@dataclass(frozen=True)
class Plan:
    """What to kill in a run.

    :param kill: how many workers to kill; others must remain.
    :param broker: the broker that loses a server.
    :param for_good: whether that server stays down.
    """

    kill: int = 0
    broker: Private | None = None
    for_good: bool = False


@asynccontextmanager
async def make_trouble(plan: Plan, trouble: Trouble, progress: Progress, workers: Workers) -> AsyncIterator[None]:
    """Kill workers from one third of the files on and a server at two thirds; record what was done."""
    async with anyio.create_task_group() as group:
        group.start_soon(_kill_workers, plan.kill, trouble, progress, workers)
        if plan.broker is not None:
            group.start_soon(_kill_server, plan.broker, plan.for_good, trouble, progress)
        yield


async def _kill_workers(number: int, trouble: Trouble, progress: Progress, workers: Workers) -> None:
    third = progress.total // 3
    for one in range(number):
        await progress.reach(third + third * one // number)
        while not workers.busy and progress.done < progress.total:  # noqa: ASYNC110 - a journal has no event
            await anyio.sleep(POLL_SECONDS)
        killed = await workers.kill_busiest()
        trouble.workers.append(WorkerKilled(killed.number, killed.pid, progress.done, killed.under_way))
        progress.say(f"killed worker {killed.number} (pid {killed.pid}) with {killed.under_way} jobs under way")


async def _kill_server(broker: Private, for_good: bool, trouble: Trouble, progress: Progress) -> None:
    await progress.reach(progress.total * 2 // 3)
    server = await broker.victim()
    name = f"{server.program} {server.version}"
    done, began, away = progress.done, anyio.current_time(), None
    server.kill()
    progress.say(f"killed {'the server' if broker.size == 1 else f'one of {broker.size} servers'} ({name})")
    if not for_good:
        await anyio.sleep(AWAY)
        await server.restart()
        away = round(anyio.current_time() - began, 3)
        progress.say(f"started the server again, on the same data; it was away for {away:.2f} s")
    trouble.servers.append(ServerKilled(name, done, away, broker.size))
