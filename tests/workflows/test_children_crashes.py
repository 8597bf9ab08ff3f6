"""Workers that die while jobs go on as workflows: each child runs for one parent, and the parent ends once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskcore import Succeeded
from taskcore.results import JobOutcome
from taskcore.workflows import continue_with, spawn
from tests.workflows.dying import Played, Stage, play, visits

pytestmark = pytest.mark.timeout(120)

CHILDREN = 3
Waits = Callable[[], Awaitable[JobOutcome[Any]]]


def declare(stage: Stage) -> dict[str, Any]:
    """Declare a parent of each kind, and their children."""

    @stage.app.task(name="leaf")
    async def leaf(n: int) -> int:
        stage.note(f"leaf-{n}")
        return n

    @stage.app.task(name="total")
    async def total(numbers: list[int]) -> int:
        stage.note("total")
        return sum(numbers)

    @stage.app.task(name="continues")
    async def continues(n: int) -> int:
        stage.note("parent")
        workflow = stage.app.workflow("leaves")
        return continue_with(workflow.step(total, workflow.map(leaf, range(n)).out))

    @stage.app.task(name="spawns")
    async def spawns(n: int) -> int:
        stage.note("parent")
        for child in range(n):
            spawn(leaf.call(child))
        return n

    @stage.app.task(name="nested")
    async def nested(depth: int) -> int:
        stage.note(f"level-{depth}")
        if depth == 0:
            return 1
        workflow = stage.app.workflow("level")
        return continue_with(workflow.step(total, workflow.map(nested, [depth - 1] * 2).out))

    @stage.app.task(name="keyed", key="n")
    async def keyed(n: int) -> int:
        stage.note("parent")
        workflow = stage.app.workflow("leaves")
        return continue_with(workflow.step(total, workflow.map(leaf, range(n)).out))

    return {"continues": continues, "spawns": spawns, "nested": nested, "keyed": keyed}


async def begin(stage: Stage, kind: str) -> Waits:
    """Send a parent."""
    job = await declare(stage)[kind].enqueue(2 if kind == "nested" else CHILDREN)
    return lambda: job.outcome(timeout=0)


def beginning(kind: str) -> Callable[[Stage], Awaitable[Waits]]:
    """Make what sends a parent of this kind."""
    return lambda stage: begin(stage, kind)


EXPECTED = {"continues": sum(range(CHILDREN)), "spawns": CHILDREN, "nested": 4, "keyed": sum(range(CHILDREN))}


def judge(kind: str, played: Played) -> None:
    """Check the outcome, and that a job ran twice only where a worker died of it."""
    assert played.outcome == Succeeded(EXPECTED[kind]), played.outcome
    once = {"nested": {"level-2": 1, "level-1": 2, "level-0": 4, "total": 3}}.get(
        kind, {"parent": 1, **{f"leaf-{n}": 1 for n in range(CHILDREN)}, **({} if kind == "spawns" else {"total": 1})}
    )
    assert played.stage.did.keys() == once.keys()
    assert sum(played.stage.did.values()) <= sum(once.values()) + played.deaths
    assert all(played.stage.did[name] >= times for name, times in once.items())


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_worker_dies_at_each_failpoint(kind: str) -> None:
    """Wherever a worker dies, no child is lost, none runs beside its death, and the parent has one outcome."""
    judge(kind, play(beginning(kind)))
    passed = visits(beginning(kind))
    planned = passed.index("workflow.planned")
    assert len(passed) > planned + 20
    for visit in range(len(passed)):
        played = play(beginning(kind), [visit + 1])
        judge(kind, played)
        if visit >= planned:  # its plan stands, so it does not run again
            assert played.stage.did["level-2" if kind == "nested" else "parent"] == 1


@pytest.mark.parametrize("kind", EXPECTED)
def test_two_workers_die(kind: str) -> None:
    """The second worker dies, too, soon or late after the first."""
    for first in range(1, len(visits(beginning(kind))) + 1, 5):
        for second in (1, 2, 3, 5, 8):
            judge(kind, play(beginning(kind), [first, second]))
