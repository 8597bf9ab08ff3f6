"""A worker that dies at a failpoint, in memory and under a virtual clock, and another one that goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import anyio

from taskcore import App, Retry
from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.step_worker import StepWorker
from taskcore.lifecycle import Raised
from taskcore.results import JobOutcome
from taskcore.stores.memory import MemoryStore
from taskcore.testing.crash_points import SimulatedCrash, crash_at, passing
from tests.support import virtual

__all__ = ["LEASE", "Played", "Stage", "play", "visits", "work"]

LEASE = 10.0  #: seconds
LONGEST = 3_600.0  #: virtual seconds that a play may take

#: Begins something and returns what waits for its outcome.
Begin = Callable[["Stage"], Awaitable[Callable[[], Awaitable[JobOutcome[Any]]]]]


class Stage:
    """An app whose tasks note what they do."""

    def __init__(self) -> None:
        self.backend, self.store = MemoryBackend(), MemoryStore()
        self.app = App(self.backend, store=self.store, clock=virtual.clock, retry=Retry(attempts=3), keep_result="1d")
        self.did: Counter[str] = Counter()
        self.order: list[str] = []
        self.sent: list[str] = []  #: ids that the play itself wants to know

    def note(self, what: str) -> None:
        """Note an effect."""
        self.did[what] += 1
        self.order.append(what)

    async def is_quiet(self) -> bool:
        """Tell whether the broker has no job any more."""
        stats = await self.app.stats()
        return not stats.ready + stats.leased + stats.scheduled


class Played(NamedTuple):
    """What a play came to.

    :param deaths: how many workers died.
    """

    stage: Stage
    outcome: JobOutcome[Any]
    deaths: int


def play(begin: Begin, crashes: Sequence[int] = ()) -> Played:
    """Play to the end; a worker dies at the first of these visits of failpoints, the next worker at the next one."""
    return anyio.run(_play, begin, crashes, backend_options=virtual.options("asyncio"))


def visits(begin: Begin) -> list[str]:
    """List the failpoints that workers pass in a play without deaths, in order."""
    return anyio.run(_visits, begin, backend_options=virtual.options("asyncio"))


async def _visits(begin: Begin) -> list[str]:
    stage = Stage()
    async with stage.app:
        await begin(stage)
        with passing() as names:
            await work(stage)
        return names


async def _play(begin: Begin, crashes: Sequence[int]) -> Played:
    stage, deaths = Stage(), 0
    async with stage.app:
        outcome = await begin(stage)
        for visit in crashes:
            with crash_at(visit=visit):
                try:
                    await work(stage)
                except SimulatedCrash:
                    deaths += 1
        await work(stage)
        return Played(stage, await outcome(), deaths)


async def work(stage: Stage) -> None:
    """Work until nothing is left to do; a crash leaves it, and the leases of what was in hand run out."""
    queues = sorted({task.spec.queue for task in stage.app})
    with anyio.fail_after(LONGEST):
        async with StepWorker(stage.app, queues, lease=LEASE) as worker:
            while not await stage.is_quiet():
                job = await worker.take(within=LEASE)
                conclusion = None if job is None else await worker.perform(job)
                if conclusion is None:
                    continue
                if isinstance(conclusion.outcome, Raised) and isinstance(conclusion.outcome.error, SimulatedCrash):
                    raise conclusion.outcome.error  # in the function: its worker is dead, too
                await worker.settle(conclusion)
