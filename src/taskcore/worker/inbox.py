"""The inbox: readers fill it with jobs, where they wait for a slot, and slots wait for a job."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

import anyio

from taskcore.backend import Delivery, Source
from taskcore.envelope import Envelope
from taskcore.errors import BrokerUnavailable
from taskcore.worker.execution import Execution
from taskcore.worker.outages import Outage
from taskcore.worker.pools import Pool

__all__ = ["Inbox", "Reader"]

RECEIVE_PATIENCE = 0.3  #: seconds without jobs or an error, after which the broker is asked whether it is back


class Inbox:
    """Gives received jobs to slots in the order in which they came.

    One idle slot is woken at a time; it wakes the next if there is more. A slot that never has to wait works
    undisturbed.

    :param pools: their readers wait for room; they are woken when jobs run out, end, or a slot becomes idle.
    :ivar executions: every job from its receipt to its settling.
    """

    def __init__(self, pools: Sequence[Pool] = ()) -> None:
        self.executions: set[Execution] = set()
        self._pools = pools
        self._jobs: deque[Execution] = deque()
        self._held: dict[Execution, None] = {}  # in order
        self._left: list[Execution] = []
        self._idle: list[anyio.Event] = []
        self._waking = False
        self.is_closed = False
        #: Called when a reader has ended: its last receipt may have brought jobs that are left over.
        self.reader_ended: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._jobs) + len(self._held)

    @property
    def idle(self) -> int:
        """How many slots wait for a job."""
        return len(self._idle)

    def put(self, jobs: Sequence[Execution]) -> None:
        """Add received jobs."""
        self.executions.update(jobs)
        if self.is_closed:
            self._left.extend(jobs)
            return
        self._jobs.extend(jobs)
        self._wake_one()

    @property
    def held(self) -> list[Execution]:
        """The jobs that slots may not have yet, in order."""
        return list(self._held)

    def hold(self, jobs: Sequence[Execution]) -> None:
        """Add received jobs that slots may not have yet."""
        self.executions.update(jobs)
        if self.is_closed:
            self._left.extend(jobs)
        else:
            self._held.update(dict.fromkeys(jobs))

    def release(self, jobs: Sequence[Execution]) -> None:
        """Let slots have jobs that were held, but for those that were taken out meanwhile."""
        still = [job for job in jobs if job in self._held]
        for job in still:
            del self._held[job]
        self.put(still)

    def take(self) -> Execution | None:
        """Take the next job; None if there is none, or if no more may start."""
        jobs = self._jobs
        if not jobs:
            return None
        job = jobs.popleft()
        if not jobs:
            self._notify()
        elif not self._waking:
            self._wake_one()
        return job

    async def wait(self) -> bool:
        """Wait, as an idle slot, until there may be a job; False if the inbox is closed."""
        if not self.is_closed:
            wake = anyio.Event()
            self._idle.append(wake)
            self._notify()
            try:
                await wake.wait()
            finally:
                if wake in self._idle:  # cancelled: no job is on its way to this slot
                    self._idle.remove(wake)
                else:
                    self._waking = False
        return not self.is_closed

    def forget(self, jobs: Sequence[Execution]) -> None:
        """Note that jobs are no longer in hand."""
        self.executions.difference_update(jobs)
        self._notify()

    def remove(self, job: Execution) -> bool:
        """Take out one job that waits; False if it does not wait here."""
        if job in self._held:
            del self._held[job]
            return True
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def close(self) -> None:
        """Give no more jobs to slots, and wake the idle ones; the jobs that wait are left over."""
        self.is_closed = True
        self._left.extend([*self._jobs, *self._held])
        self._jobs.clear()
        self._held.clear()
        while self._idle:
            self._idle.pop().set()

    def leftovers(self) -> list[Execution]:
        """Hand over the jobs that came to no slot before the inbox was closed; each of them once."""
        left, self._left = self._left, []
        return left

    def _notify(self) -> None:
        for pool in self._pools:
            if pool.changed is not None:
                pool.changed.set()

    def _wake_one(self) -> None:
        if not self._waking and self._idle and self._jobs:
            self._waking = True
            self._idle.pop().set()


class Reader:
    """Receives the jobs of one pool, as many as there is room for, and never more.

    :param decode: reads their envelopes.
    :param is_behind: tells whether more jobs have ended than can be settled at the moment.
    :param received: called with what is received.
    :param ask: a cheap question to the broker.
    :param put: takes what is received, into the inbox.
    """

    def __init__(
        self,
        pool: Pool,
        inbox: Inbox,
        outage: Outage,
        *,
        decode: Callable[[bytes], Envelope],
        is_behind: Callable[[], bool],
        received: Callable[[Sequence[Execution]], None],
        ask: Callable[[], Awaitable[object]],
        put: Callable[[Sequence[Execution]], None],
    ) -> None:
        self.pool = pool
        self._inbox = inbox
        self._outage = outage
        self._decode = decode
        self._is_behind = is_behind
        self._received = received
        self._ask = ask
        self._put = put
        self._scope = anyio.CancelScope()

    def stop(self) -> None:
        """Receive no more; what a receipt brings at this moment is left over in the inbox."""
        self._scope.cancel()

    async def run(self, source: Source) -> None:
        """Receive until stopped."""
        pool, inbox, outage, decode = self.pool, self._inbox, self._outage, self._decode
        with self._scope:
            while not inbox.is_closed:
                room = 0 if self._is_behind() else pool.room(inbox.idle, len(inbox))
                if room <= 0:
                    await pool.wait()
                    continue
                deliveries: Sequence[Delivery] = ()
                try:
                    with anyio.move_on_after(RECEIVE_PATIENCE) if outage.is_on else nullcontext():
                        deliveries = await source.receive(room)
                    if outage.is_on and not deliveries:
                        await self._ask()  # a broker with an empty queue never says by itself that it is back
                except BrokerUnavailable as error:
                    await outage.failed(error, self._ask)
                    continue
                if outage.is_on:
                    outage.recovered()
                now = anyio.current_time()
                jobs = [Execution(delivery, source, now, pool, decode) for delivery in deliveries]
                pool.active += len(jobs)
                self._received(jobs)  # before a job can block the loop: what keeps the leases has to see that
                self._put(jobs)
        inbox.reader_ended()
