"""The supervisor: keeps as many worker processes running as there should be, until a signal.

It starts them as programs of their own, listens to their reports, starts a new one when one dies, and says why it
died. It takes no jobs itself. When the supervisor dies, its worker processes notice at once and end by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import anyio
import anyio.abc

from taskcore.supervisor.decide import Limits, ProcessView, next_step
from taskcore.supervisor.exits import OutOfMemory, Restarts, describe, show_memory
from taskcore.supervisor.health import Health
from taskcore.supervisor.leaked_threads import leaked_text
from taskcore.supervisor.messages import Order
from taskcore.supervisor.process import SupervisedProcess
from taskcore.toolkit.logging import logger

__all__ = ["Supervisor", "SupervisorOptions"]

log = logger("taskcore.supervisor")

LOOK_EVERY = 0.25  #: seconds between two looks at the limits and at what is due
REFUSAL_CODES = (
    2,
    3,
    4,
    5,
)  #: exit codes with which a worker refuses to start: it said why, and the next would say the same
NO_BROKER = 4  #: the refusal that heals by itself


class SupervisorOptions(NamedTuple):
    """How many processes, and how they are treated.

    :param arguments: of ``taskcore worker`` in each of them.
    :param least: how many there are at first and at least …
    :param most: … and at most.
    :param grace: the seconds that running jobs have to finish when the supervisor stops.
    :param limits: when a process is replaced.
    :param is_patient: a process that cannot start waits for a change of the code, instead of being started again.
    """

    arguments: Sequence[str]
    least: int
    most: int
    grace: float
    limits: Limits = Limits()
    is_patient: bool = False


class Supervisor:
    """Starts, watches, replaces and ends the worker processes.

    :ivar wanted: how many of them there should be.
    :ivar counters: the events in the processes that have ended.
    """

    def __init__(self, options: SupervisorOptions) -> None:
        self.options = options
        self.wanted = options.least
        self.processes: list[SupervisedProcess] = []
        self.ready = anyio.Event()  #: one process takes jobs
        self.code = 0  #: the exit code of the supervisor
        self._counters: Counter[str] = Counter()
        self._restarts = Restarts()
        self._out_of_memory = OutOfMemory()
        self._changed = anyio.Event()
        self._stopping: Order | None = None
        self._waits_for_code = False
        self._beat = monotonic()

    # ── what others ask and tell ──

    @property
    def counters(self) -> Counter[str]:
        """How often each event has happened in all processes."""
        return sum((Counter(process.report.counters) for process in self.processes), self._counters.copy())

    @property
    def settled(self) -> list[SupervisedProcess]:
        """The processes that take jobs."""
        return [process for process in self.processes if process.is_settled]

    def judge(self, within: float) -> Health:
        """Tell how it is; called in a thread."""
        now = monotonic()
        if now - self._beat > within + LOOK_EVERY:
            return Health(live=False, ready=False, why="the supervisor's event loop is blocked")
        heard = [process for process in list(self.processes) if process.heard is not None]
        blocked = [process.pid for process in heard if now - (process.heard or now) > within]
        ready = [process for process in self.settled if process.report.ready and process.pid not in blocked]
        why = f"the event loop of process {blocked[0]} is blocked" if blocked else ""
        return Health(live=not blocked, ready=bool(ready), why=why or ("" if ready else "no process receives"))

    def stop(self, order: Order = "stop") -> None:
        """Stop everything: pass the order on, once to each process."""
        self._stopping = order
        for process in self.processes:
            process.order(order)
        self._wake()

    def kill(self) -> None:
        """End all processes at once; their leases run out."""
        for process in self.processes:
            process.kill()

    def replace_all(self) -> None:
        """Stop every process and start new ones, because the code has changed."""
        self._waits_for_code = False
        for process in self.processes:
            process.order("stop")
        self._wake()

    def want(self, number: int) -> None:
        """Set how many processes there should be."""
        self.wanted = number
        self._wake()

    def _wake(self) -> None:
        self._changed.set()

    # ── the loop ──

    async def run(self) -> None:
        """Keep the processes running until ``stop``; ``code`` is the exit code then."""
        async with anyio.create_task_group() as group:
            while self._stopping is None or self.processes:
                self._beat = monotonic()
                self._changed = anyio.Event()
                self._reap()
                if self._stopping is None:
                    await self._take_step(group)
                elif not self.processes:
                    break
                with anyio.move_on_after(LOOK_EVERY):
                    await self._changed.wait()
            group.cancel_scope.cancel()

    async def _take_step(self, group: anyio.abc.TaskGroup) -> None:
        limits = self.options.limits
        step = next_step([_view(process, limits) for process in self.processes], self.wanted)
        now = anyio.current_time()
        if step.what == "start" and now >= self._restarts.not_before and not self._waits_for_code:
            process = await SupervisedProcess.start(self.options.arguments, self._wake)
            self.processes.append(process)
            group.start_soon(process.run)
            if self._stopping is not None:  # it came while the process started
                process.order(self._stopping)
            self._wake()
        elif step.what == "retire":
            process = self.processes[step.number]
            self._say_why(process, limits)
            process.order("retire")
            self._wake()

    def _say_why(self, process: SupervisedProcess, limits: Limits) -> None:
        worn = _worn(process, limits)
        if worn:
            log.info("process %d is replaced: %s; it finishes its %d jobs", process.pid, worn, process.report.running)
        else:
            log.info("process %d is not needed any more; it finishes its %d jobs", process.pid, process.report.running)

    # ── ends ──

    def _reap(self) -> None:
        """Take out the processes that have ended, and say of those that were not told to end why they did."""
        if self.settled:
            self._restarts.was_ready()
            if not self.ready.is_set():
                self.ready.set()
        for process in [one for one in self.processes if one.code is not None]:
            self.processes.remove(process)
            self._counters.update(process.report.counters)
            if process.leaving is None and self._stopping is None:
                self._explain(process, process.code or 0)

    def _explain(self, process: SupervisedProcess, code: int) -> None:
        if not process.was_ready and code in REFUSAL_CODES and not self.ready.is_set():
            self._give_up(code, "the worker cannot start; it has said why")
            return
        why = describe(code, process.report.memory, out_of_memory=self._out_of_memory.has_struck())
        heals = self.ready.is_set() and code == NO_BROKER
        if self.options.is_patient and not process.was_ready and not heals:
            self._waits_for_code = True
            log.error("process %d %s; waiting for a change of the code", process.pid, why)
            return
        now = anyio.current_time()
        lived = now - process.began
        delay = self._restarts.ended(now, lived=lived, was_ready=process.was_ready, counts=not heals)
        if self._restarts.is_hopeless:
            tries = self._restarts.failed_starts
            self._give_up(
                max(code, 1), f"{tries} worker processes in a row ended before they were ready; the last {why}"
            )
        elif code == 0:
            log.info("process %d was stopped from outside; the next starts in %.1f s", process.pid, delay)
        else:
            log.error("process %d %s; it ran for %.1f s, and the next starts in %.1f s", process.pid, why, lived, delay)

    def _give_up(self, code: int, why: str) -> None:
        log.error("%s; the supervisor ends with exit code %d", why, code)
        self.code = code
        self.stop()


def _view(process: SupervisedProcess, limits: Limits) -> ProcessView:
    return ProcessView(
        is_settled=process.is_settled,
        is_leaving=process.leaving is not None,
        is_worn=process.is_settled and bool(_worn(process, limits)),
        running=process.report.running,
    )


def _worn(process: SupervisedProcess, limits: Limits) -> str:
    """Say why a process is to be replaced; empty if it is not."""
    report = process.report
    if limits.jobs is not None and report.ended >= limits.jobs:
        return f"{report.ended} jobs have ended in it, --max-jobs is {limits.jobs}"
    if limits.memory is not None and report.memory > limits.memory and process.has_worked:
        return f"it occupies {show_memory(report.memory)}, --max-memory is {show_memory(limits.memory)}"
    if limits.leaked is not None and report.leaked > limits.leaked:
        return f"{leaked_text(report.leaked)}, --max-leaked-threads is {limits.leaked}"
    return ""
