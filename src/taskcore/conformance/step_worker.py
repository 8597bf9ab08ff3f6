"""Hands: a worker that does one thing at a time, when told.

The same parts as a real worker (performing, concluding, settling), without its loops: a test decides when a job is
taken, performed, settled, or dropped in the middle. So every interleaving can be played, and played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

import anyio
import msgspec

from taskcore.app import App
from taskcore.backend import Source
from taskcore.lifecycle import Interrupted
from taskcore.worker.build import Hooks, build_parts
from taskcore.worker.decide import Settlement
from taskcore.worker.execution import Execution, JobState, Slot, workflows_here
from taskcore.worker.hosting import WorkerChoice, worker_options
from taskcore.worker.slots import Deadlines

__all__ = ["StepWorker"]


class StepWorker:
    """One worker's hands on the queues of an open app.

    Leaving the context is a worker's death: what it holds is not given back, its leases have to run out.

    :param lease: seconds; default: as the app's settings say.
    :param name: its name in trails.
    """

    source: Source

    def __init__(
        self, app: App, queues: Sequence[str], *, lease: float | None = None, name: str = "step-worker"
    ) -> None:
        options = worker_options(app.settings, app.tasks, WorkerChoice(queues, 1))
        if lease is not None:
            options = msgspec.structs.replace(options, lease=lease)
        options = msgspec.structs.replace(options, name=name, threads=1, processes=1)
        self._options = options
        self._backend = app.components.backend
        self._decode = app.components.codec.decode
        self._slot = Slot()
        self._executions: set[Execution] = set()
        self._counted: set[Settlement] = set()
        hooks = Hooks(lost=self._lose, watch=Deadlines([self._slot]).watch, forget=self._executions.difference_update)
        parts = build_parts(app.components, app.tasks, options, hooks, executions=self._executions)
        self._performer, self._decider, self._settler = parts.performer, parts.decider, parts.settler
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to consume."""
        self._exits.push_async_callback(self._performer.runners.aclose)
        self.source = await self._exits.enter_async_context(
            self._backend.consume(self._options.queues, lease=self._options.lease)
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Die: nothing is given back."""
        self._slot.isolation.close()
        await self._exits.aclose()

    @property
    def executions(self) -> frozenset[Execution]:
        """What was taken and is not settled."""
        return frozenset(self._executions)

    async def take(self, *, within: float = 0.01) -> Execution | None:
        """Take the next delivery; None if there is none within so many seconds."""
        with anyio.move_on_after(within):
            for delivery in await self.source.receive(1):
                job = Execution(delivery, self.source, anyio.current_time(), decode=self._decode)
                self._executions.add(job)
                return job
        return None

    async def perform(self, job: Execution) -> Settlement | None:
        """Run the job's function and conclude; nothing is durable yet. None: its lease turned out to be lost."""
        self._slot.job = job
        workflows_here.set(self._performer.admission.workflows)
        outcome = None
        with anyio.CancelScope() as self._slot.scope:
            outcome = await self._performer.perform(job, self._slot)
        self._slot.job = self._slot.why = None
        return None if outcome is None or job.state is JobState.LOST else self._decider.settlement(job, outcome)

    async def settle(self, conclusion: Settlement) -> bool:
        """Make a conclusion durable; False if the lease was lost, so that nothing was changed."""
        if conclusion not in self._counted:
            self._counted.add(conclusion)
            self._settler.count([conclusion])
        await self._settler.commit([conclusion])
        return conclusion.settled

    async def release(self, job: Execution) -> bool:
        """Give a job back unstarted, without blame; False if the lease was lost."""
        return await self.settle(self._decider.settlement(job, Interrupted()))

    async def extend(self, job: Execution) -> bool:
        """Start its lease anew; False if it was lost."""
        return not await self.source.extend([job.delivery])

    async def work(self, job: Execution) -> bool:
        """Perform and settle; False if the lease was lost."""
        conclusion = await self.perform(job)
        return conclusion is not None and await self.settle(conclusion)

    def _lose(self, job: Execution) -> None:
        job.state = JobState.LOST
