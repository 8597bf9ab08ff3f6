"""The sweep: every operation, crashed at every point that it passes, in every state that a job may be in.

Random stories hardly ever crash inside a rare branch; here nothing is left to chance. A first pass of each operation
records the points on its way, so whoever adds a point to the code has it swept without saying so here.

    for case in cases(Stage.in_memory): run(case, Stage.in_memory)              each is one test with a readable name
    run(case, lambda: Stage.at(url), real_time=True, dying=dying(url, path))    and the crash is real

After the crash somebody else goes on, a healthy worker drains the queue, and two judges look at what came of it: the
checker of all tests, which reads what was written down, and :mod:`taskcore.conformance.crash_sweep.check`, which knows
the case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

from taskcore.conformance.checking import History, RecordingBackend
from taskcore.conformance.crash_sweep.check import check, judge_drill
from taskcore.conformance.crash_sweep.environment import KEEP, Ledger
from taskcore.conformance.crash_sweep.scenario import STATES, Drill
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
Dying: TypeAlias = Callable[[Drill, Case], Awaitable[bool]]


async def crash_here(drill: Drill, case: Case) -> bool:
    """Die in this process, by an exception that nobody survives."""
    try:
        with crash_at(case.point, visit=case.visit):
            await drill.operate(case.operation)
    except SimulatedCrash:
        drill.died()
        return True
    return False


def cases(make_stage: Callable[[], Harness], *, real_time: bool = False) -> Iterator[Case]:
    """Every case there is, by looking which points each operation passes in each state."""
    for operation, states in STATES.items():
        for state in states:
            yield Case(operation, "", 1, state)
            visits: Counter[str] = Counter()
            for point in points_of(operation, state, make_stage, real_time=real_time):
                visits[point] += 1
                yield Case(operation, point, visits[point], state)


def points_of(operation: str, state: str, make_stage: Callable[[], Harness], *, real_time: bool = False) -> list[str]:
    """The points that an operation passes in a state, in order."""

    async def record(drill: Drill) -> list[str]:
        await getattr(drill, state)(drill.task_of(operation))
        with passing() as names:
            await drill.operate(operation)
        return names

    return _on_stage(make_stage, record, real_time=real_time)


def run(
    case: Case,
    make_stage: Callable[[], Harness],
    *,
    real_time: bool = False,
    dying: Dying = crash_here,
    ledger: Ledger | None = None,
) -> None:
    """Play one case to its end.

    :raises AssertionError: a promise was broken; the text names its clause.
    """

    async def play(drill: Drill) -> None:
        await getattr(drill, case.state)(drill.task_of(case.operation))
        if not case.point:
            await drill.operate(case.operation)
        else:
            died = await dying(drill, case)
            assert died, f"{case.operation} in state {case.state} does not pass {case.point}"
            drill.crashes += 1
            await drill.recover(case.operation)
        await drill.drain()
        report = await judge_drill(drill)
        report.expect_kept()
        await check(drill, case.operation, case.state, case.point, until=KEEP if not real_time else 0.0)

    _on_stage(make_stage, play, real_time=real_time, ledger=ledger)


def _on_stage(
    make_stage: Callable[[], Harness],
    play: Callable[[Drill], Awaitable[T]],
    *,
    real_time: bool,
    ledger: Ledger | None = None,
) -> T:
    async def act() -> T:
        async with make_stage() as stage:
            history = History(clock=stage.now)
            app = await stage.app(keep_result=KEEP, around=lambda backend: RecordingBackend(backend, history))
            margin = stage.margin + stage.features.delay_error
            queue = stage.queue()
            drill = Drill(
                app, queue, ledger or Ledger(), mark=stage.mark, lease=stage.lease, margin=margin, history=history
            )
            drill.written = stage.written
            try:
                return await play(drill)
            finally:
                await drill.bury_workers()

    with real_steps() if real_time else virtual_steps() as step:
        return step(act)
