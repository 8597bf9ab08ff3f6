"""Hands: a worker that does one thing at a time, when told.

The same parts as a real worker (performing, concluding, settling), without its loops: a test decides when a job is
taken, performed, settled, or dropped in the middle. So every interleaving can be played, and played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from taskcore.app import App
from taskcore.backend import Source
from taskcore.lifecycle import Interrupted
from taskcore.worker.decide import Concluder
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import Deadlines, LeaseKeeper
from taskcore.worker.outages import OutageTracker
from taskcore.worker.perform import Performer
from taskcore.worker.runners import Executors
from taskcore.worker.settle import Settlement, Settler

__all__ = ["StepWorker"]


class StepWorker:
    """One worker's hands on the queues of an open app.

    Leaving the context is a worker's death: what it holds is not given back, its leases have to run out.

    :param lease: seconds; default: as the app's settings say.
    :param name: who we are, in trails.
    """

    source: Source

    def __init__(
        self, app: App, queues: Sequence[str], *, lease: float | None = None, name: str = "step-worker"
    ) -> None:
        backend, store, events, clock, _ = app.components
        self._lease = app.settings.lease if lease is None else lease
        self._queues = queues
        self._backend = backend
        self._slot = Slot()
        self._in_hand: set[Execution] = set()
        outages = OutageTracker("broker", events)
        self._keeper = LeaseKeeper(
            self._in_hand, store, events, lease=self._lease, lost=self._lose, clock=clock, outage=outages.member()
        )
        self._settler = Settler(
            store,
            events,
            forget=self._in_hand.difference_update,
            lease_over=self._keeper.lease_over,
            keys=self._keeper.keys,
            outage=outages.member(),
        )
        keep = app.settings.keep_result if store is not None else None
        self._concluder = Concluder(park_for=app.settings.park_for, keep_result=keep)
        self._executors = Executors(threads=1, processes=1)
        self._performer = Performer(
            app.tasks,
            store,
            events,
            executors=self._executors,
            deadlines=Deadlines([self._slot]),
            features=backend.features,
            lease=self._lease,
            clock=clock,
            name=name,
        )
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to consume."""
        self._exits.push_async_callback(self._executors.aclose)
        self.source = await self._exits.enter_async_context(self._backend.consume(self._queues, lease=self._lease))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Die: nothing is given back."""
        await self._exits.aclose()

    @property
    def in_hand(self) -> frozenset[Execution]:
        """What was taken and is not settled."""
        return frozenset(self._in_hand)

    async def take(self, *, within: float = 0.01) -> Execution | None:
        """The next delivery; None if there is none within so many seconds."""
        with anyio.move_on_after(within):
            for delivery in await self.source.receive(1):
                job = Execution(delivery, self.source, anyio.current_time())
                self._in_hand.add(job)
                return job
        return None

    async def perform(self, job: Execution) -> Settlement | None:
        """Run the job's function and conclude; nothing is durable yet. None: its lease turned out to be lost."""
        self._slot.job = job
        outcome = None
        with anyio.CancelScope() as self._slot.scope:
            outcome = await self._performer.perform(job, self._slot)
        self._slot.job = None
        job.finished = True
        return None if outcome is None or job.lost else self._concluder.conclude(job, outcome)

    async def settle(self, conclusion: Settlement) -> bool:
        """Make a conclusion durable; False if the lease was lost, so that nothing was changed."""
        await self._settler.commit([conclusion])
        return conclusion.settled

    async def release(self, job: Execution) -> bool:
        """Give a job back unstarted, without blame; False if the lease was lost."""
        return await self.settle(self._concluder.conclude(job, Interrupted()))

    async def extend(self, job: Execution) -> bool:
        """Start its lease anew; False if it was lost."""
        return not await self.source.extend([job.delivery])

    async def work(self, job: Execution) -> bool:
        """Perform and settle; False if the lease was lost."""
        conclusion = await self.perform(job)
        return conclusion is not None and await self.settle(conclusion)

    def _lose(self, job: Execution) -> None:
        job.lost = True
