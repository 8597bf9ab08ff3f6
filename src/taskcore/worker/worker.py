"""The worker: a free slot first, then a delivery; perform it, decide, settle.

    _read ──▶ Inbox ──▶ _slot × concurrency ──▶ Decider ──▶ Settler ──▶ broker
                           └ Performer: one job to one outcome

Slots are coroutines that live as long as the worker and loop over deliveries, because spawning a task for each job
costs more than most jobs. Each slot has a cancel scope: a job that overruns its time, loses its lease or outlives the
shutdown is interrupted through it, and the slot goes on with a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import Any

import anyio
import anyio.abc

from taskcore.backend import Delivery, Source
from taskcore.components import Components
from taskcore.contract.codec import first_line
from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord
from taskcore.lifecycle import Buried, Interrupted, Outcome
from taskcore.task import Task
from taskcore.toolkit.isolation import is_cancelled_from_outside
from taskcore.toolkit.logging import logger
from taskcore.worker.admission import finish_unrun
from taskcore.worker.build import Hooks, build_parts
from taskcore.worker.execution import LOST, STARTED_ACKED, Execution, Slot
from taskcore.worker.inbox import Inbox
from taskcore.worker.leftovers import keeping_generators
from taskcore.worker.options import WorkerOptions
from taskcore.worker.pools import Pool, pools_of
from taskcore.worker.services import Service, start_services

__all__ = ["Worker"]

log = logger("taskcore.worker")

RECEIVE_PATIENCE = 10.0  #: seconds of waiting without an error after which an outage is over; no call hangs for longer
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
        self.executions: set[Execution] = set()  #: every job from its receipt to its settling
        self._backend = components.backend
        self._decode = components.codec.decode
        self._events = components.events
        self._options = options
        self._grace = options.grace
        slots = self._slots = [Slot() for _ in range(options.concurrency)]
        hooks = Hooks(self._on_lease_lost, self._forget)
        parts = self._parts = build_parts(components, tasks, options, hooks, slots=slots, executions=self.executions)
        self._performer, self._decider, self._settler = parts.performer, parts.decider, parts.settler
        self._services: list[Service] = [parts.keeper, parts.performer.deadlines, *services]
        self._pools = pools_of(options, tasks.values())
        self._reading = {pool: anyio.CancelScope() for pool in self._pools}
        self._inbox = Inbox(self._notify_pools)
        self._stopping, self._quiet = anyio.Event(), anyio.Event()

    def stop(self) -> None:
        """Begin to stop: nothing new starts, running jobs may finish within the grace (C21)."""
        self._inbox.close()
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop now: running jobs are interrupted and given back."""
        self._grace = 0.0
        self.stop()
        self._quiet.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until ``stop``; return when everything in hand is settled or given back.

        :raises BrokerUnavailable: the broker cannot be reached at the start. The worker waits for later outages to end.
        """
        async with AsyncExitStack() as sources, anyio.create_task_group() as services:
            sources.enter_context(keeping_generators())
            sources.push_async_callback(self._performer.runners.aclose)
            readers = [
                (pool, await sources.enter_async_context(self._backend.consume(pool.queues, lease=self._options.lease)))
                for pool in self._pools
            ]
            await start_services(services, self._services)
            async with anyio.create_task_group() as settling:
                settling.start_soon(self._settler.run)
                async with anyio.create_task_group() as working:
                    for slot in self._slots:
                        working.start_soon(self._slot, slot)
                    for pool, source in readers:
                        working.start_soon(self._read, pool, source)
                    task_status.started()
                    await self._stopping.wait()
                    await self._wind_down()
                self._settler.close()
                settling.cancel_scope.deadline = anyio.current_time() + FINAL_SETTLE_TIMEOUT
            services.cancel_scope.cancel()

    # ── receiving ──

    async def _read(self, pool: Pool, source: Source) -> None:
        """Receive as much as there is room for, and never more."""
        outage, decode = self._parts.broker.member(), self._decode
        with self._reading[pool]:
            while not self._stopping.is_set():
                room = 0 if self._settler.is_behind else pool.room(self._inbox.idle, len(self._inbox))
                if room <= 0:
                    await pool.wait()
                    continue
                deliveries: Sequence[Delivery] = ()
                try:
                    # A broker with an empty queue never says that it is back, so waiting without an error has to do.
                    with anyio.move_on_after(RECEIVE_PATIENCE) if outage.is_on else nullcontext():
                        deliveries = await source.receive(room)
                except BrokerUnavailable as error:
                    await outage.failed(error)
                    continue
                if outage.is_on:
                    outage.recovered()
                now = anyio.current_time()
                jobs = [Execution(delivery, source, now, pool, decode) for delivery in deliveries]
                pool.active += len(jobs)
                self.executions.update(jobs)
                self._parts.keeper.begin()
                self._inbox.put(jobs)
        self._give_back_unstarted()

    # ── slots ──

    async def _slot(self, slot: Slot) -> None:
        while not self._inbox.is_closed:
            try:
                with anyio.CancelScope() as slot.scope:
                    await self._work(slot)
            except anyio.get_cancelled_exc_class():
                if is_cancelled_from_outside():
                    raise
                self._report_cancelled(slot)
            if slot.job is not None:
                self._end_interrupted(slot, slot.job)
        slot.isolation.close()
        if not any(slot.job is not None for slot in self._slots):
            self._quiet.set()

    async def _work(self, slot: Slot) -> None:
        """Perform job after job, until the inbox is closed or this slot's scope is used up."""
        inbox = self._inbox
        while True:
            job = inbox.take()
            if job is None:
                if not await inbox.wait():
                    return
                continue
            slot.job = job
            try:
                outcome = await self._performer.perform(job, slot)
            except Exception as error:  # noqa: BLE001 - no job ends the worker (C25)
                outcome = await self._perform_in_spite_of(error, job, slot)
            slot.job = slot.why = None
            self._end(job, outcome)
            if slot.scope.cancel_called:
                return

    async def _perform_in_spite_of(self, error: Exception, job: Execution, slot: Slot) -> Outcome | None:
        """Find the outcome of a job whose performance failed outside of its own code."""
        try:
            if isinstance(error, BrokerUnavailable):
                # The store cannot say whether the job may start: it waits in its slot, under its lease.
                return await self._parts.store.outlast(error, partial(self._performer.perform, job, slot))
            raise error
        except UnreadableRecord as foreign:  # which may be its start marker: it stays as it is
            return Buried(first_line(foreign))
        except StoreRefused as never:
            return finish_unrun(job, Buried(first_line(never)))
        except Exception as own:
            log.exception("performing job %s failed; it is a dead letter", job.id)
            return finish_unrun(job, Buried(f"it could not be performed: {type(own).__name__}: {first_line(own)}"))

    def _report_cancelled(self, slot: Slot) -> None:
        """Report a slot whose task some code has cancelled by itself; the slot goes on."""
        labels = slot.job.labels if slot.job is not None else {}
        self._events.emit("slot.cancelled", **labels)
        log.error(
            "code in this process cancelled a task of the worker, which goes on; job in hand: %s",
            labels.get("job_id", "none"),
        )

    # ── ends ──

    def _end(self, job: Execution, outcome: Outcome | None) -> None:
        """Hand the job's settlement to the settler; an outcome of None is a lease that was lost."""
        if job.pool is not None:
            job.pool.active -= 1
            job.pool.ended += 1
        if outcome is None or job.state is LOST:
            self._events.emit("job.lost", **job.labels)
            self._forget([job])
            return
        self._settler.put(self._decider.settlement(job, outcome))

    def _end_interrupted(self, slot: Slot, job: Execution) -> None:
        """End the job that was interrupted in this slot; why decides what that means."""
        why, slot.why, slot.job, slot.deadline = slot.why, None, None, None
        self._end(job, self._performer.interrupted(job, why or "shutdown"))

    def _on_lease_lost(self, job: Execution) -> None:
        """Interrupt the job if it runs, forget it if it waits; the settler drops one that has ended."""
        if job.state >= STARTED_ACKED:  # the broker has forgotten it already: there is no lease to lose
            return
        job.state = LOST
        for slot in self._slots:
            if slot.job is job:
                slot.interrupt("lost")
                return
        if self._inbox.remove(job):
            self._end(job, None)

    def _forget(self, jobs: Sequence[Execution]) -> None:
        self.executions.difference_update(jobs)
        self._notify_pools()

    def _notify_pools(self) -> None:
        for pool in self._pools:
            if pool.changed is not None:
                pool.changed.set()

    # ── stopping ──

    async def _wind_down(self) -> None:
        """Stop the readers first, give back what has not started, then wait for what runs; the settler ends last."""
        for scope in self._reading.values():
            scope.cancel()
        self._give_back_unstarted()
        running = [slot for slot in self._slots if slot.job is not None and slot.job.has_started]
        for slot in self._slots:
            if slot not in running:
                slot.interrupt("shutdown")
        if running:
            log.info("stopping: %d running jobs have up to %g s to finish", len(running), self._grace)
        with anyio.move_on_after(self._grace):
            await self._quiet.wait()
        for slot in self._slots:
            slot.interrupt("shutdown")

    def _give_back_unstarted(self) -> None:
        for job in self._inbox.leftovers():
            self._end(job, Interrupted())
