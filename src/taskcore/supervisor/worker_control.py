"""Controls the worker of this process: signals or orders stop it, and it reports its health."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import aclosing

import anyio
from anyio.abc import TaskStatus

from taskcore.supervisor.health import Health
from taskcore.supervisor.leaked_threads import LeakedThreads, leaked_text
from taskcore.supervisor.memory import occupied
from taskcore.supervisor.messages import REPORT_EVERY, Order, WorkerReport
from taskcore.supervisor.orders import SupervisorChannel
from taskcore.supervisor.spawning import release_interrupts
from taskcore.toolkit.logging import logger
from taskcore.toolkit.stop_limit import StopLimit
from taskcore.worker.signals import received_signals, stop_on_signals
from taskcore.worker.worker import Worker

__all__ = ["LEAKED_EXIT_CODE", "SupervisedWorkerControl", "WorkerControl"]

log = logger("taskcore.worker")

LEAKED_EXIT_CODE = 6  #: exit code of a worker that has ended because too many of its threads have leaked

#: the events with which a job ends in a worker that has run it
ENDED_EVENTS = ("job.succeeded", "job.retried", "job.buried", "job.cancelled", "job.deferred", "job.failed")


class WorkerControl:
    """Controls a worker without a supervisor: signals stop it, and so do too many leaked threads.

    Its heart beats in the event loop, from before the app connects until it has disconnected.

    :param limit: ends the process if it does not end by itself in time.
    :param max_leaked: how many threads may leak; None: any number.
    :ivar code: the exit code of the process.
    """

    def __init__(self, limit: StopLimit, max_leaked: int | None = None) -> None:
        self.code = 0
        self.limit = limit
        self._beat = time.monotonic()
        self._worker: Worker | None = None
        self._leaked_threads = LeakedThreads()
        self._max_leaked = max_leaked

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled."""
        task_status.started()
        while True:
            self._beat = time.monotonic()
            leaked = self._count_leaked()
            if self._max_leaked is not None and leaked > self._max_leaked and not self.code:
                self._end_leaking(leaked)
            await anyio.sleep(REPORT_EVERY)

    def _count_leaked(self) -> int:
        return self._leaked_threads.note(self._worker.leaked_threads if self._worker is not None else 0)

    def _end_leaking(self, leaked: int) -> None:
        self.code = LEAKED_EXIT_CODE
        log.error(
            "this worker stops: %s, max_leaked_threads is %d. Threads end only with their process: it ends with exit "
            "code %d, for its supervisor to restart it. Give blocking calls time limits of their own",
            leaked_text(leaked),
            self._max_leaked,
            LEAKED_EXIT_CODE,
        )
        self.finish()
        self.limit.begin()

    def finish(self) -> None:
        """Stop the worker: nothing new starts, and running jobs have their grace."""
        if self._worker is not None:
            self._worker.stop()

    def judge(self, within: float) -> Health:
        """Tell how it is; may be called in any thread."""
        worker = self._worker
        late = time.monotonic() - self._beat
        if late > within + REPORT_EVERY:
            return Health(live=False, ready=False, why=f"the event loop has been blocked for {late:.1f} s")
        ready = worker is not None and worker.is_receiving
        return Health(live=True, ready=ready, why="" if ready else "it does not receive")

    async def attend(
        self, worker: Worker, grace: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Stop the worker at signals; see :class:`taskcore.worker.hosting.Attend`."""
        self._worker = worker
        await stop_on_signals(worker, grace, limit=self.limit, task_status=task_status)


class SupervisedWorkerControl(WorkerControl):
    """Controls the worker of a supervised process: orders stop it, and it reports.

    A signal counts as the order to stop, however often it comes: a terminal's Ctrl-C and systemd's SIGTERM reach the
    supervisor and all its processes, and the supervisor sends its orders at the same time.

    :param scope: around everything; an order cancels it while there is no worker yet.
    """

    def __init__(self, channel: SupervisorChannel, counters: Mapping[str, int], scope: anyio.CancelScope) -> None:
        super().__init__(channel.limit)
        self._channel = channel
        self._counters = counters
        self._scope = scope
        self._order: Order | None = None
        self._changed = anyio.Event()
        self._busy: tuple[float, float] = (time.monotonic(), time.process_time())
        channel.listen(self._note)

    def _note(self, order: Order) -> None:
        self._order = order
        self._changed.set()
        if self._worker is None:
            self._scope.cancel()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Report until cancelled, and a last time then; receive signals meanwhile."""
        async with anyio.create_task_group() as group:
            await group.start(self._count_signals)
            release_interrupts()
            task_status.started()
            await self._report()

    async def _report(self) -> None:
        try:
            while True:
                self._channel.report(self._measure())
                await anyio.sleep(REPORT_EVERY)
        finally:
            self._channel.report(self._measure())

    def _measure(self) -> WorkerReport:
        worker, counters = self._worker, self._counters
        before, now = self._busy, (time.monotonic(), time.process_time())
        self._busy = now
        core = (now[1] - before[1]) / max(now[0] - before[0], 0.001)
        running = worker.running if worker is not None else 0
        slots = running / worker.concurrency if worker is not None else 0.0
        return WorkerReport(
            ready=worker is not None and worker.is_receiving,
            running=running,
            utilisation=min(1.0, max(core, slots)),
            ended=sum(counters.get(event, 0) for event in ENDED_EVENTS),
            memory=occupied(),
            leaked=self._count_leaked(),
            counters=dict(counters),
        )

    async def attend(
        self, worker: Worker, grace: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Stop the worker at orders and at signals."""
        self._worker = worker
        task_status.started()
        await self._until(lambda order: order is not None)
        if self._order == "retire":
            worker.retire()
            await self._until(lambda order: order != "retire")
        worker.stop()
        with anyio.move_on_after(grace):
            await self._until(lambda order: order == "interrupt")
        worker.interrupt()

    async def _until(self, is_enough: Callable[[Order | None], bool]) -> None:
        while not is_enough(self._order):
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _count_signals(self, *, task_status: TaskStatus[None]) -> None:
        async with aclosing(received_signals(task_status)) as received:
            async for _ in received:
                if self._order in {None, "retire"}:
                    self._note("stop")
