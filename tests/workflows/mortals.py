"""Workers in memory that die without a word: at a failpoint, or at any moment, under a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from taskcore import App, current
from taskcore.backends.memory import MemoryBackend
from taskcore.records.names import outcome_name
from taskcore.stores.memory import MemoryStore
from taskcore.testing.crash_points import SimulatedCrash
from taskcore.worker.hosting import WorkerChoice, make_worker
from tests.support import virtual

__all__ = ["Mortals"]


class Mortals:
    """Workers over one broker and one store, and a sender that lives.

    :param declare: gives an app its tasks.
    :ivar started: how often each job was started.
    :ivar too_late: jobs that were started although their outcome was stored.
    :ivar deaths: how many workers have died.
    """

    def __init__(self, declare: Callable[[App], object], *, workers: int = 1, **settings: Any) -> None:
        self.backend, self.store = MemoryBackend(), MemoryStore()
        self._settings = settings
        self.started: Counter[str] = Counter()
        self.too_late: list[str] = []
        self.deaths = 0
        self._declare = declare
        self.sender = self._make("sender")
        self.apps = [self._make(f"worker-{number}") for number in range(workers)]

    def _make(self, name: str) -> App:
        app = App(self.backend, store=self.store, clock=virtual.clock, source=name, **self._settings)
        self._declare(app)
        return app

    def note_start(self) -> None:
        """Note that a function starts; called by the tasks."""
        job = current().envelope.id
        self.started[job] += 1
        if self.store._find(outcome_name(job)) is not None:
            self.too_late.append(job)

    @asynccontextmanager
    async def living(self, live: Callable[[App], Any]) -> AsyncIterator[App]:
        """Open everything, let each worker live, and hand out the sender."""
        async with self.sender, anyio.create_task_group() as group:
            for app in self.apps:
                group.start_soon(self._open, app, live)
            yield self.sender
            group.cancel_scope.cancel()

    async def _open(self, app: App, live: Callable[[App], Any]) -> None:
        async with app:
            await live(app)

    async def again_and_again(self, app: App) -> None:
        """Work until a failpoint ends it, and begin anew with nothing in memory."""
        while True:
            await self._work(app)
            self.deaths += 1

    def at_random(self, dice: random.Random, *, until: float, life: float = 5.0) -> Callable[[App], Any]:
        """Let workers die after random times, until the time is over; then they live on."""

        async def live(app: App) -> None:
            while virtual.clock() < until:
                with anyio.move_on_after(dice.expovariate(1 / life)):
                    await self._work(app)
                self.deaths += 1
                await anyio.sleep(dice.random())
            await self._work(app)

        return live

    async def _work(self, app: App) -> None:
        """Run one worker; return when it has died at a failpoint."""
        worker = make_worker(app.components, app.settings, app.tasks, WorkerChoice())
        try:
            await worker.run()
        except SimulatedCrash:
            return
        except BaseExceptionGroup as group:
            if group.split(SimulatedCrash)[1] is not None:
                raise
