"""The heart: a free slot first, then a delivery; perform it; decide; settle.

    _read ──▶ inbox ──▶ _slot × concurrency ──▶ _conclude ──▶ Settler ──▶ broker
                           └ Performer.perform: one job to one outcome

Slots are coroutines that live as long as the worker and loop over deliveries, because spawning a task for each job
costs more than most jobs. Each slot has a cancel scope; what overruns its time, loses its lease or outlives the
shutdown is interrupted through it, and the slot goes on with a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.abc

from taskcore.backend import Backend, Delivery, Source
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Interrupted, Outcome
from taskcore.observe import Events
from taskcore.options import RunsIn
from taskcore.store import Store
from taskcore.task import Task
from taskcore.toolkit.logging import logger
from taskcore.worker.decide import Concluder
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import Deadlines, LeaseKeeper
from taskcore.worker.outages import OutageTracker
from taskcore.worker.perform import Performer
from taskcore.worker.pools import Pool, pools_of
from taskcore.worker.runners import Executors
from taskcore.worker.settle import Settler

__all__ = ["Worker"]

log = logger("taskcore.worker")

RECEIVE_PATIENCE = (
    10.0  #: seconds of waiting without an error after which an outage is over; no adapter's call hangs for longer
)
FINAL_SETTLE_TIMEOUT = 5.0  #: seconds for which a stopping worker tries to settle what it has concluded


class Worker:
    """Runs the jobs of some queues until told to stop. All times in seconds.

    :param tasks: by name; what is not in it is parked, never dropped.
    :param queues: where to look, most urgent first.
    :param concurrency: how many jobs run at once.
    :param lease: how long a delivery is ours without word from us.
    :param grace: how long running jobs may go on after ``stop``.
    :param park_for: how long a job waits for a worker that knows its task.
    :param keep_result: how long the ending of a job can be asked for whose task we do not know.
    :param clock: seconds since the epoch.
    :param name: who we are, in trails and logs.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        backend: Backend,
        store: Store | None,
        events: Events,
        *,
        queues: Sequence[str],
        concurrency: int,
        executors: Executors,
        lease: float,
        grace: float,
        park_for: float,
        keep_result: float,
        clock: Callable[[], float],
        name: str,
    ) -> None:
        self._backend = backend
        self._executors = executors
        self._events = events
        self._lease = lease
        self._grace = grace
        self._concluder = Concluder(park_for=park_for, keep_result=keep_result if store is not None else None)
        self._in_hand: set[Execution] = set()
        self._inbox: deque[Execution] = deque()
        self._slots = [Slot() for _ in range(concurrency)]
        self._idle: list[Slot] = []
        self._waking = False
        self._store_outage = OutageTracker("store", events).member()
        self._broker_outages = outages = OutageTracker("broker", events)
        rooms: dict[RunsIn, int] = {kind: int(room.total_tokens) for kind, room in executors.rooms.items()}
        self._pools = pools_of(queues, tasks.values(), concurrency=concurrency, rooms=rooms)
        self._reading = {lane: anyio.CancelScope() for lane in self._pools}
        self._stopping = anyio.Event()
        self._stops = False  # the same, for whoever looks after each job
        self._quiet = anyio.Event()
        self._deadlines = Deadlines(self._slots)
        self._keeper = LeaseKeeper(
            self._in_hand, store, events, lease=lease, lost=self._on_lease_lost, clock=clock, outage=outages.member()
        )
        self._settler = Settler(
            store,
            events,
            forget=self._forget,
            lease_over=self._keeper.lease_over,
            keys=self._keeper.keys,
            outage=outages.member(),
        )
        self._performer = Performer(
            tasks,
            store,
            events,
            executors=executors,
            deadlines=self._deadlines,
            features=backend.features,
            lease=lease,
            clock=clock,
            name=name,
        )

    def stop(self) -> None:
        """Begin to stop: nothing new starts, what runs may finish within the grace (C21)."""
        self._stops = True
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop now: what runs is interrupted and given back."""
        self._grace = 0.0
        self.stop()
        self._quiet.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until ``stop``; ends when everything in hand is settled or given back.

        :raises BrokerUnavailable: the broker could not be reached at the start. Later outages are waited for.
        """
        async with AsyncExitStack() as sources, anyio.create_task_group() as helpers:
            sources.push_async_callback(self._executors.aclose)
            readers = [
                (lane, await sources.enter_async_context(self._backend.consume(lane.queues, lease=self._lease)))
                for lane in self._pools
            ]
            helpers.start_soon(self._keeper.run)
            helpers.start_soon(self._deadlines.run)
            async with anyio.create_task_group() as settling:
                settling.start_soon(self._settler.run)
                async with anyio.create_task_group() as working:
                    for slot in self._slots:
                        working.start_soon(self._slot, slot)
                    for lane, source in readers:
                        working.start_soon(self._read, lane, source)
                    task_status.started()
                    await self._stopping.wait()
                    await self._wind_down()
                self._settler.close()
                settling.cancel_scope.deadline = anyio.current_time() + FINAL_SETTLE_TIMEOUT
            helpers.cancel_scope.cancel()

    # ── receiving ──

    async def _read(self, lane: Pool, source: Source) -> None:
        """Receive as much as there is room for, and never more."""
        outage = self._broker_outages.member()
        with self._reading[lane]:
            while not self._stopping.is_set():
                room = 0 if self._settler.is_behind else lane.room(len(self._idle), len(self._inbox))
                if room <= 0:
                    await lane.wait()
                    continue
                deliveries: Sequence[Delivery] = ()
                try:
                    # Whoever waits for jobs without an error has a broker, although an empty queue never says so.
                    with anyio.move_on_after(RECEIVE_PATIENCE if outage.is_on else None):
                        deliveries = await source.receive(room)
                except BrokerUnavailable as error:
                    await outage.failed(error)
                    continue
                outage.recovered()
                now = anyio.current_time()
                jobs = [Execution(delivery, source, now, lane) for delivery in deliveries]
                lane.active += len(jobs)
                self._in_hand.update(jobs)
                self._keeper.begin()
                self._inbox.extend(jobs)
                self._wake_one()

    def _wake_one(self) -> None:
        """Wake one slot; it wakes the next if there is more. So a slot that never has to wait works undisturbed."""
        if not self._waking and self._idle and self._inbox:
            wake = self._idle.pop().wake
            if wake is not None:
                self._waking = True
                wake.set()

    # ── slots ──

    async def _slot(self, slot: Slot) -> None:
        while not self._stopping.is_set():
            with anyio.CancelScope() as slot.scope:
                await self._work(slot)
            if slot.job is not None:
                self._conclude_interrupted(slot, slot.job)
        if not any(slot.job is not None for slot in self._slots):
            self._quiet.set()

    async def _work(self, slot: Slot) -> None:
        """Job after job, until the worker stops or this slot's scope is used up."""
        while not self._stops:
            if not self._inbox:
                await self._wait_for_job(slot)
                continue
            job = slot.job = self._inbox.popleft()
            if not self._inbox:
                self._notify_pools()
            elif not self._waking:
                self._wake_one()
            try:
                outcome = await self._performer.perform(job, slot)
            except BrokerUnavailable as error:
                outcome = await self._perform_later(job, slot, error)
            slot.job = None
            self._conclude(job, outcome)
            if slot.scope.cancel_called:
                slot.why = None
                return

    async def _perform_later(self, job: Execution, slot: Slot, error: BrokerUnavailable) -> Outcome | None:
        """As long as the store cannot say whether a job may start, it waits here, under its lease."""
        while True:
            await self._store_outage.failed(error)
            try:
                outcome = await self._performer.perform(job, slot)
            except BrokerUnavailable as again:
                error = again
            else:
                self._store_outage.recovered()
                return outcome

    async def _wait_for_job(self, slot: Slot) -> None:
        slot.wake = anyio.Event()
        self._idle.append(slot)
        self._notify_pools()
        await slot.wake.wait()
        self._waking = False

    # ── concluding ──

    def _conclude(self, job: Execution, outcome: Outcome | None) -> None:
        """From the outcome to the verdict to the settler; an outcome of None is a lease that was lost."""
        if job.finished:
            return
        job.finished = True
        if job.pool is not None:
            job.pool.active -= 1
            job.pool.throughput.jobs += 1
        if outcome is None or job.lost:
            self._events.emit("job.lost", **job.labels)
            self._forget([job])
            return
        self._settler.put(self._concluder.conclude(job, outcome))

    def _conclude_interrupted(self, slot: Slot, job: Execution) -> None:
        """What ran in this slot was cut short; why decides what that means."""
        why, slot.why, slot.job, slot.deadline = slot.why, None, None, None
        if why == "timeout":
            self._conclude(job, self._performer.timed_out(job))
        elif why == "lost":
            self._conclude(job, None)
        else:
            self._conclude(job, Interrupted())

    def _on_lease_lost(self, job: Execution) -> None:
        """A lease was lost: interrupt the job if it runs, forget it if it waits; the settler sees to one that ended."""
        job.lost = True
        for slot in self._slots:
            if slot.job is job:
                slot.interrupt("lost")
                return
        if job in self._inbox:
            self._inbox.remove(job)
            self._conclude(job, None)

    def _forget(self, jobs: Sequence[Execution]) -> None:
        self._in_hand.difference_update(jobs)
        self._notify_pools()

    def _notify_pools(self) -> None:
        for lane in self._pools:
            lane.notify()

    # ── stopping ──

    async def _wind_down(self) -> None:
        """First the reader, then what has not started, then what runs; the settler comes last, by itself."""
        for scope in self._reading.values():
            scope.cancel()
        while self._inbox:
            self._conclude(self._inbox.popleft(), Interrupted())
        for idle in self._idle:
            if idle.wake is not None:
                idle.wake.set()
        running = 0
        for slot in self._slots:
            if slot.job is not None and slot.job.started:
                running += 1
            else:
                slot.interrupt("shutdown")
        if running:
            log.info("stopping: %d running jobs have up to %g s to finish", running, self._grace)
        with anyio.move_on_after(self._grace):
            await self._quiet.wait()
        for slot in self._slots:
            slot.interrupt("shutdown")
