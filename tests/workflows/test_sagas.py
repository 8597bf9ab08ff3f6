"""Sagas: what was done is undone in reverse order, once nothing can run any more, or all of it stays.

``TASKCORE_WORKFLOW_SWEEP=1 pytest tests/workflows/test_sagas.py`` lets two workers die, at each pair of failpoints.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Dead, Expired, Retry, Succeeded
from taskcore.results import JobOutcome
from taskcore.stores.memory import MemoryStore
from taskcore.workflows import Compensation, InvalidWorkflow, Run, Step, Workflow
from tests.support import virtual
from tests.workflows.dying import Played, Stage, play, visits

STEPS = 4
EVERY = bool(os.environ.get("TASKCORE_WORKFLOW_SWEEP"))  #: let workers die at each pair of points, not at some

pytestmark = pytest.mark.timeout(1_800 if EVERY else 300)


class Trip:
    """An app with effects that can be undone, and what they are at the moment."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.effects: dict[str, int] = {}
        self.log: list[str] = []
        self.stuck: set[str] = set()

        @app.task(name="do")
        async def do(what: str, fails: bool = False, seconds: float = 0.0) -> str:
            await anyio.sleep(seconds)
            if fails:
                raise ValueError(what)
            self.effects[what] = 1  # a repeat of it is the same effect
            self.log.append(f"+{what}")
            return what

        @app.task(name="undo")
        async def undo(what: str) -> None:
            if what in self.stuck:
                raise KeyError(what)
            self.effects[what] = 0
            self.log.append(f"-{what}")

        self.do, self.undo = do, undo

    def chain(self, fails_at: int, *, pivot: int = -1, tries: int = 1, **options: Any) -> tuple[Workflow, Step[str]]:
        """Build steps one behind the other, of which one fails; all before the pivot have compensations."""
        workflow = self.app.workflow("trip", **options)
        last: Step[str] | None = None
        for number in range(STEPS):
            step = workflow.step(self.do.using(retry=1), f"s{number}", number == fails_at).named(f"s{number}")
            if last is not None:
                step.after(last)
            if number == pivot:
                step.pivot()
            elif pivot < 0 or number < pivot:
                step.compensate(self.undo.using(retry=tries), f"s{number}" if number % 2 else step.out)
            last = step
        assert last is not None
        return workflow, last


def run(story: Callable[[Trip], Awaitable[None]]) -> None:
    """Tell a story while a worker runs."""
    trip = Trip(App("memory://", store=MemoryStore(), clock=virtual.clock, retry=Retry(attempts=1), keep_result="1d"))

    async def whole() -> None:
        async with trip.app.running():
            await story(trip)

    anyio.run(whole, backend_options=virtual.options("asyncio"))


@pytest.mark.parametrize("fails_at", range(-1, STEPS))
def test_what_was_done_is_undone_in_reverse_order(fails_at: int) -> None:
    """A step that fails undoes those before it, the newest first; one that may have had its effect, too."""

    async def story(trip: Trip) -> None:
        workflow, last = trip.chain(fails_at)
        sent = await workflow.submit(last)
        outcome = await sent.outcome(timeout=600)
        if fails_at < 0:
            assert outcome == Succeeded(f"s{STEPS - 1}")
            assert (await sent.compensation()).state == "none"
            assert set(trip.effects.values()) == {1}
            return
        own = [f"s{fails_at}"] if fails_at % 2 else []  # its compensation does not take its result
        undone = [*own, *(f"s{number}" for number in reversed(range(fails_at)))]
        assert [entry for entry in trip.log if entry[0] == "-"] == [f"-{name}" for name in undone]
        assert isinstance(outcome, Dead)
        assert outcome.reason.startswith(f"step s{fails_at}: ")
        assert await sent.compensation() == Compensation(state="done", undone=tuple(undone))
        assert not any(trip.effects.values())

    run(story)


def test_nothing_is_undone_while_a_step_runs() -> None:
    """A step beside the one that fails runs to its end, and is undone then; one that waits does not start."""

    async def story(trip: Trip) -> None:
        workflow = trip.app.workflow("trip")
        slow = workflow.step(trip.do, "slow", seconds=30).named("slow").compensate(trip.undo, "slow")
        late = workflow.step(trip.do.using(delay=60), "late").named("late").compensate(trip.undo, "late")
        bad = workflow.step(trip.do, "bad", fails=True).named("bad")
        sent = await workflow.submit(workflow.step(trip.do, "last").named("last").after(slow, late, bad))
        assert isinstance(await sent.outcome(timeout=600), Dead)
        assert trip.log == ["+slow", "-slow"]

    run(story)


def test_cancelling_before_and_behind_the_pivot() -> None:
    """Before its pivot a saga is cancelled and undone; behind it the caller is refused, and it goes on."""

    async def story(trip: Trip) -> None:
        async def send(seconds: float) -> Run[str]:
            workflow = trip.app.workflow("trip")
            hotel = workflow.step(trip.do, "hotel", seconds=5).named("hotel").compensate(trip.undo, "hotel")
            paid = workflow.step(trip.do, "paid", seconds=5).named("paid").after(hotel).pivot()
            sent = await workflow.submit(workflow.step(trip.do, "sent").named("sent").after(paid))
            await anyio.sleep(seconds)
            return sent

        early = await send(1)
        assert await early.cancel()
        assert await early.outcome(timeout=600) == Cancelled()
        assert trip.log == ["+hotel", "-hotel"]
        late = await send(7)
        assert not await late.cancel()
        assert await late.outcome(timeout=600) == Succeeded("sent")
        assert trip.log[2:] == ["+hotel", "+paid", "+sent"]

    run(story)


def test_a_deadline_in_the_middle() -> None:
    """When the deadline passes, what was done is undone, although no step comes any more."""

    async def story(trip: Trip) -> None:
        workflow = trip.app.workflow("trip", deadline=100)
        hotel = workflow.step(trip.do, "hotel").named("hotel").compensate(trip.undo, "hotel")
        sent = await workflow.submit(workflow.step(trip.do.using(delay=500), "late").named("late").after(hotel))
        began = virtual.clock()
        assert await sent.outcome(timeout=5000) == Expired()
        assert virtual.clock() - began >= 100
        assert trip.log == ["+hotel", "-hotel"]

    run(story)


@pytest.mark.parametrize("how", ["stop", "continue"])
def test_a_compensation_that_fails(how: Any) -> None:
    """It stops the others, or not; either is reported, and can be begun anew at the one that failed."""

    async def story(trip: Trip) -> None:
        trip.stuck.add("s1")
        workflow, last = trip.chain(3, on_compensation_failure=how)
        sent = await workflow.submit(last)
        outcome = await sent.outcome(timeout=600)
        assert isinstance(outcome, Dead)
        assert "the compensation of s1 failed" in outcome.reason
        seen = await sent.compensation()
        assert (seen.state, list(seen.failed)) == ("failed", ["s1"])
        assert seen.waiting == (("s0",) if how == "stop" else ())
        trip.stuck.clear()
        await trip.app.workflows.compensate(sent.id)
        await anyio.sleep(60)
        assert (await sent.compensation()).state == "done"
        assert not any(trip.effects.values())
        assert [trip.log.count(f"-s{number}") for number in range(STEPS)] == [1, 1, 1, 1]
        with pytest.raises(InvalidWorkflow, match="has failed"):
            await trip.app.workflows.compensate(sent.id)

    run(story)


def test_a_compensation_outlasts_those_who_wait() -> None:
    """A caller who waits past the deadline does not end a saga whose compensation is tried again and again."""

    async def story(trip: Trip) -> None:
        trip.stuck.add("hotel")
        workflow = trip.app.workflow("trip", deadline=100)
        hotel = workflow.step(trip.do, "hotel").named("hotel").compensate(trip.undo.using(retry=50), "hotel")
        sent = await workflow.submit(workflow.step(trip.do.using(delay=500), "late").named("late").after(hotel))

        async def repair() -> None:
            await anyio.sleep(4 * 3_600)
            trip.stuck.clear()

        async with anyio.create_task_group() as group:
            group.start_soon(repair)
            assert await sent.outcome() == Expired()
        assert trip.log == ["+hotel", "-hotel"]
        assert (await sent.compensation()).state == "done"

    run(story)


def test_compensations_wait_for_one_that_is_tried_again() -> None:
    """One that fails some times and then succeeds keeps its place: those of older steps come after it."""

    async def story(trip: Trip) -> None:
        trip.stuck.add("s1")
        workflow, last = trip.chain(3, tries=20)
        sent = await workflow.submit(last)
        await anyio.sleep(3)
        assert [entry for entry in trip.log if entry[0] == "-"] == ["-s3", "-s2"]
        assert (await sent.compensation()).state == "running"
        trip.stuck.clear()
        assert isinstance(await sent.outcome(timeout=600), Dead)
        assert [entry for entry in trip.log if entry[0] == "-"] == ["-s3", "-s2", "-s1", "-s0"]

    run(story)


def test_two_steps_that_fail_at_once() -> None:
    """Two branches that fail at the same moment make one list and one outcome: what is undone is undone once."""

    async def story(trip: Trip) -> None:
        workflow = trip.app.workflow("trip")
        before = workflow.step(trip.do, "before").named("before").compensate(trip.undo, "before")
        bad = [
            workflow.step(trip.do.using(retry=1), name, fails=True, seconds=5).named(name).after(before)
            for name in ("left", "right")
        ]
        sent = await workflow.submit(workflow.step(trip.do, "last").named("last").after(*bad))
        outcome = await sent.outcome(timeout=600)
        assert isinstance(outcome, Dead)
        assert trip.log == ["+before", "-before"]
        assert await sent.compensation() == Compensation(state="done", undone=("before",))

    run(story)


def test_steps_behind_the_pivot_are_tried_until_they_succeed() -> None:
    """A hundred failures behind the pivot undo nothing, nor does the deadline."""

    async def story(trip: Trip) -> None:
        tries = 0

        @trip.app.task(name="send", retry=Retry(attempts=1, base=60.0, cap=60.0))
        async def send() -> int:
            nonlocal tries
            tries += 1
            if tries <= 100:
                raise ConnectionError
            return tries

        workflow = trip.app.workflow("trip", deadline=1_000)
        hotel = workflow.step(trip.do, "hotel").named("hotel").compensate(trip.undo, "hotel")
        paid = workflow.step(trip.do, "paid").named("paid").after(hotel).pivot()
        sent = await workflow.submit(workflow.step(send).after(paid))
        assert await sent.outcome() == Succeeded(101)
        assert trip.log == ["+hotel", "+paid"]

    run(story)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4.9999, 5.0, 5.0001])
def test_what_a_canceller_is_told_is_true(seconds: float) -> None:
    """At whichever moment a saga is cancelled, True means that it is undone, and False that it went well."""

    async def story(trip: Trip) -> None:
        workflow = trip.app.workflow("trip")
        hotel = workflow.step(trip.do, "hotel", seconds=2.5).named("hotel").compensate(trip.undo, "hotel")
        last = workflow.step(trip.do, "car", seconds=2.5).named("car").after(hotel).compensate(trip.undo, "car")
        sent = await workflow.submit(last)
        await anyio.sleep(seconds)
        cancelled = await sent.cancel()
        outcome = await sent.outcome(timeout=600)
        assert outcome == (Cancelled() if cancelled else Succeeded("car"))
        assert any(trip.effects.values()) is not cancelled

    run(story)


def test_what_is_undone_is_not_replayed() -> None:
    """A saga that is undone cannot go on with its steps: it says so, and another one may be submitted."""

    async def story(trip: Trip) -> None:
        workflow, last = trip.chain(3)
        sent = await workflow.submit(last)
        assert isinstance(await sent.outcome(timeout=600), Dead)
        with pytest.raises(InvalidWorkflow, match="are undone"):
            await trip.app.workflows.replay(sent.id)

    run(story)


def test_what_cannot_be_a_saga() -> None:
    """A map, a second pivot, a step beside the pivot and a compensation behind it are refused when it is sent."""

    async def story(trip: Trip) -> None:
        for build in (_map, _two_pivots, _beside, _behind):
            workflow = trip.app.workflow("trip")
            with pytest.raises(InvalidWorkflow):
                await workflow.submit(build(trip, workflow))

    run(story)


def _map(trip: Trip, workflow: Workflow) -> Step[str]:
    workflow.map(trip.do, ["a"])
    return workflow.step(trip.do, "b").compensate(trip.undo, "b")


def _two_pivots(trip: Trip, workflow: Workflow) -> Step[str]:
    return workflow.step(trip.do, "b").after(workflow.step(trip.do, "a").pivot()).pivot()


def _beside(trip: Trip, workflow: Workflow) -> Step[str]:
    pivot = workflow.step(trip.do, "a").pivot()
    beside = workflow.step(trip.do, "b")
    return workflow.step(trip.do, "c").after(pivot, beside)


def _behind(trip: Trip, workflow: Workflow) -> Step[str]:
    pivot = workflow.step(trip.do, "a").pivot()
    return workflow.step(trip.do, "b").after(pivot).compensate(trip.undo, "b")


# ── deaths ──


def beginning(fails_at: int) -> Callable[[Stage], Awaitable[Callable[[], Awaitable[JobOutcome[Any]]]]]:
    """Make what sends a saga of which one step fails."""

    async def begin(stage: Stage) -> Callable[[], Awaitable[JobOutcome[Any]]]:
        trip = Trip(stage.app)
        stage.trip = trip  # type: ignore[attr-defined]  # for the judge
        workflow, last = trip.chain(fails_at, deadline=900)
        sent = await workflow.submit(last)
        return lambda: sent.outcome(timeout=0)

    return begin


def judge(fails_at: int, played: Played) -> None:
    """Check that the net effect is zero, or all."""
    trip: Trip = played.stage.trip  # type: ignore[attr-defined]  # see above
    values = [trip.effects.get(f"s{number}", 0) for number in range(STEPS)]
    if fails_at < 0:
        assert values == [1] * STEPS
        assert played.outcome == Succeeded(f"s{STEPS - 1}")
    else:
        assert not any(values), (trip.log, played.outcome)
        assert isinstance(played.outcome, Dead)


@pytest.mark.parametrize("fails_at", [-1, 0, 2, 3])
def test_a_worker_dies_at_each_failpoint(fails_at: int) -> None:
    """Wherever a worker dies, all effects stay or none does."""
    passed = visits(beginning(fails_at))
    for visit in range(1, len(passed) + 1):
        judge(fails_at, play(beginning(fails_at), [visit]))


@pytest.mark.parametrize("fails_at", range(STEPS))
def test_two_workers_die(fails_at: int) -> None:
    """The second one dies as well, soon or late after the first: the net effect stays zero."""
    number = len(visits(beginning(fails_at)))
    pairs = [(first, second) for first in range(1, number + 1) for second in range(1, number + 1 - first)]
    for pair in pairs if EVERY else random.Random(fails_at).sample(pairs, 25):
        judge(fails_at, play(beginning(fails_at), pair))
