"""The sweep: every operation, crashed at every point that it passes, in every state that a job may be in.

Random steps hardly ever crash inside a rare branch; here nothing is left to chance. A first pass of each operation
records the points on its way, so a new point in the code is swept without a change here.

    for case in cases(Harness.in_memory): run(case, Harness.in_memory)            each is one test with a readable name
    run(case, lambda: Harness.at(url), real_time=True, dying=dying(url, path))    and the crash is real

After the crash another process goes on, and a healthy worker drains the queue. Then two checkers read the outcome: the
general one, which knows only the history, and :mod:`taskcore.conformance.crash_sweep.check`, which knows the case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

from taskcore.conformance.checking import History, RecordingBackend
from taskcore.conformance.crash_sweep.check import check, check_recorded_history
from taskcore.conformance.crash_sweep.environment import KEEP_RESULT, StartLog
from taskcore.conformance.crash_sweep.scenario import STATES, Scenario
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.steps import real_steps, virtual_steps
from taskcore.testing.crash_points import SimulatedCrash, crash_at, passing

__all__ = ["Case", "Dying", "cases", "crash_here", "run"]

T = TypeVar("T")


class Case(NamedTuple):
    """Do this, die at the so-manieth visit of this point, when this has happened before. ``point`` "" does not die."""

    operation: str
    point: str
    visit: int
    state: str

    def __str__(self) -> str:
        point = self.point or "no-crash"
        return f"{self.operation}-{point}{'' if self.visit == 1 else f'.{self.visit}'}-{self.state}"


#: Does the operation of a case and dies at its point; True if it did.
Dying: TypeAlias = Callable[[Scenario, Case], Awaitable[bool]]


async def crash_here(scenario: Scenario, case: Case) -> bool:
    """Die in this process, by an exception that no handler survives."""
    try:
        with crash_at(case.point, visit=case.visit):
            await scenario.operate(case.operation)
    except SimulatedCrash:
        scenario.died()
        return True
    return False


def cases(make_harness: Callable[[], Harness], *, real_time: bool = False) -> Iterator[Case]:
    """Find every case there is, by looking which points each operation passes in each state."""
    for operation, states in STATES.items():
        for state in states:
            yield Case(operation, "", 1, state)
            visits: Counter[str] = Counter()
            for point in points_of(operation, state, make_harness, real_time=real_time):
                visits[point] += 1
                yield Case(operation, point, visits[point], state)


def points_of(operation: str, state: str, make_harness: Callable[[], Harness], *, real_time: bool = False) -> list[str]:
    """Return the points that an operation passes in a state, in order."""

    async def record(scenario: Scenario) -> list[str]:
        await getattr(scenario, state)(scenario.task_of(operation))
        with passing() as names:
            await scenario.operate(operation)
        return names

    return _on_harness(make_harness, record, real_time=real_time)


def run(
    case: Case,
    make_harness: Callable[[], Harness],
    *,
    real_time: bool = False,
    dying: Dying = crash_here,
    starts: StartLog | None = None,
) -> None:
    """Run one case to its end.

    :raises AssertionError: a promise was broken; the text names its clause.
    """

    async def run_case_on(scenario: Scenario) -> None:
        await getattr(scenario, case.state)(scenario.task_of(case.operation))
        if not case.point:
            await scenario.operate(case.operation)
        else:
            died = await dying(scenario, case)
            assert died, f"{case.operation} in state {case.state} does not pass {case.point}"
            scenario.crashes += 1
            await scenario.recover(case.operation)
        await scenario.drain()
        report = await check_recorded_history(scenario)
        report.expect_kept()
        await check(scenario, case.operation, case.state, case.point, until=KEEP_RESULT if not real_time else 0.0)

    _on_harness(make_harness, run_case_on, real_time=real_time, starts=starts)


def _on_harness(
    make_harness: Callable[[], Harness],
    run: Callable[[Scenario], Awaitable[T]],
    *,
    real_time: bool,
    starts: StartLog | None = None,
) -> T:
    async def act() -> T:
        async with make_harness() as harness:
            history = History(clock=harness.now)
            app = await harness.app(keep_result=KEEP_RESULT, around=lambda backend: RecordingBackend(backend, history))
            margin = harness.margin + harness.features.delay_error
            queue = harness.queue()
            scenario = Scenario(
                app, queue, starts or StartLog(), mark=harness.mark, lease=harness.lease, margin=margin, history=history
            )
            scenario.written = harness.written
            try:
                return await run(scenario)
            finally:
                await scenario.end_workers()

    with real_steps() if real_time else virtual_steps() as step:
        return step(act)
