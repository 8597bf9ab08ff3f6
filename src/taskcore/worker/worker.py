"""The worker: a free slot first, then a delivery; perform it, decide, settle.

    _read ──▶ Inbox ──▶ Slots × concurrency ──▶ Decider ──▶ Settler ──▶ broker
                           └ Performer: one job to one outcome

A job that overruns its time, loses its lease or outlives the shutdown is interrupted in its slot, and the slot goes on.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from importlib import import_module
from typing import Any

import anyio
import anyio.abc

from taskcore.backend import Source
from taskcore.components import Components
from taskcore.services import Service, serving
from taskcore.task import Task
from taskcore.toolkit.leftovers import keeping_leftovers
from taskcore.toolkit.logging import logger
from taskcore.worker.build import Hooks, build_parts
from taskcore.worker.execution import LOST, STARTED_ACKED, Execution, Slot, job_here
from taskcore.worker.inbox import Inbox, Reader
from taskcore.worker.options import WorkerOptions
from taskcore.worker.pools import Pool, pools_of
from taskcore.worker.slots import Deadlines, Slots

__all__ = ["Worker"]

log = logger("taskcore.worker")

FINAL_SETTLE_TIMEOUT = 5.0  #: seconds for which a stopping worker tries to settle the jobs that have ended


class Worker:
    """Runs the jobs of some queues until it is stopped.

    :param tasks: by name; a job of an unknown task is parked, never dropped.
    :param services: further parts that run as long as the worker does.
    """

    def __init__(
        self,
        components: Components,
        tasks: Mapping[str, Task[..., Any]],
        options: WorkerOptions,
        *,
        services: Sequence[Service] = (),
    ) -> None:
        self._pools = pools_of(options, tasks.values())
        self._inbox = Inbox(self._pools)
        self.executions = self._inbox.executions  #: every job from its receipt to its settling
        self._backend = components.backend
        self._options = options
        self._grace = options.grace
        slots = [Slot() for _ in range(options.concurrency)]
        deadlines = Deadlines(slots)
        hooks = Hooks(self._on_lease_lost, deadlines.watch, self._inbox.forget)
        parts = build_parts(components, tasks, options, hooks, executions=self.executions)
        self._performer, self._settler = parts.performer, parts.settler
        self._broker, self._store = parts.broker, parts.store
        self._services: list[Service] = [parts.keeper, deadlines, *parts.services, *services]
        put = self._inbox.put
        if parts.first_starts is not None:
            look_ahead = parts.first_starts.look_ahead(self._inbox)
            self._services.append(look_ahead)
            put = look_ahead.put
        self._slots = Slots(slots, self._inbox, parts, components.events, self._inbox.forget)
        self._inbox.reader_ended = self._slots.give_back_unstarted
        self._readers = [
            Reader(
                pool,
                self._inbox,
                parts.broker.member(),
                decode=components.codec.decode,
                is_behind=parts.settler.is_behind,
                received=parts.keeper.begin,
                ask=partial(self._ask, pool),
                put=put,
            )
            for pool in self._pools
        ]
        self._started = False
        self._stopping = anyio.Event()
        self._host: Callable[..., Awaitable[None]] | None = None  #: what goes around the work, of a feature room
        if components.lifespan is not None or any(task.contract.injected for task in tasks.values()):
            self._host = partial(import_module("taskcore.dependencies.hosting").run_hosted, components)

    @property
    def is_receiving(self) -> bool:
        """Whether it asks for jobs, and its broker and store answer, as far as it knows."""
        is_cut = self._broker.is_lost or self._store.is_on
        return self._started and not self._stopping.is_set() and not is_cut

    @property
    def running(self) -> int:
        """How many functions run at the moment."""
        return len(self._slots.running)

    @property
    def concurrency(self) -> int:
        """How many jobs can run at once."""
        return self._options.concurrency

    @property
    def leaked_threads(self) -> int:
        """How many functions run on in their threads although their jobs have ended."""
        return self._performer.runners.leaked_threads

    def retire(self) -> None:
        """Begin to stop: nothing new starts, and running jobs may take as long as they need."""
        self._grace = math.inf
        self.stop()

    def stop(self) -> None:
        """Begin to stop: nothing new starts, running jobs may finish within the grace (C21)."""
        self._inbox.close()
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop now: running jobs are interrupted and given back."""
        self._grace = 0.0
        self.stop()
        self._slots.quiet.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until ``stop``; return when everything in hand is settled or given back.

        :raises BrokerUnavailable: the broker cannot be reached at the start. The worker waits for later outages to end.
        """
        if self._host is None:
            await self._work(task_status=task_status)
        else:
            await self._host(self._work, self._stopping, task_status)

    async def _work(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with AsyncExitStack() as sources:
            sources.enter_context(keeping_leftovers(job_here))
            sources.push_async_callback(self._performer.runners.aclose)
            read = [(reader, await sources.enter_async_context(self._consume(reader.pool))) for reader in self._readers]
            await sources.enter_async_context(serving(self._services))
            async with anyio.create_task_group() as settling:
                settling.start_soon(self._settler.run)
                async with anyio.create_task_group() as working:
                    self._slots.start(working)
                    for reader, source in read:
                        working.start_soon(reader.run, source)
                    self._started = True
                    task_status.started()
                    await self._stopping.wait()
                    await self._wind_down()
                self._settler.close()
                settling.cancel_scope.deadline = anyio.current_time() + FINAL_SETTLE_TIMEOUT

    async def _ask(self, pool: Pool) -> None:
        await self._backend.admin.stats(pool.queues[:1])

    def _consume(self, pool: Pool) -> AbstractAsyncContextManager[Source]:
        return self._backend.consume(pool.queues, lease=self._options.lease)

    # ── ends ──

    def _on_lease_lost(self, job: Execution) -> None:
        """Interrupt the job if it runs, forget it if it waits; the settler drops one that has ended."""
        if job.state >= STARTED_ACKED:  # the broker has forgotten it already: there is no lease to lose
            return
        job.state = LOST
        for slot in self._slots.all:
            if slot.job is job:
                slot.interrupt("lost")
                return
        if self._inbox.remove(job):
            self._slots.end(job, None)

    # ── stopping ──

    async def _wind_down(self) -> None:
        """Stop the readers first, give back what has not started, then wait for what runs; the settler ends last."""
        for reader in self._readers:
            reader.stop()
        self._slots.give_back_unstarted()
        running = self._slots.running
        for slot in self._slots.all:
            if slot not in running:
                slot.interrupt("shutdown")
        if running:
            limit = "as long as they need" if self._grace == math.inf else f"up to {self._grace:g} s"
            are = "job has" if len(running) == 1 else "jobs have"
            log.info("stopping: %d running %s %s to finish", len(running), are, limit)
        with anyio.move_on_after(self._grace):
            await self._slots.quiet.wait()
        for slot in self._slots.all:
            slot.interrupt("shutdown")
