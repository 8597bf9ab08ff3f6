"""A worker that dies at any failpoint: nothing of a workflow is lost or doubled, and it ends as it would have."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Dead, Succeeded
from taskcore.errors import ResultTimeout
from taskcore.lifecycle import AlreadyDone
from taskcore.testing.crash_points import SimulatedCrash, crash_at, passing
from taskcore.workflows import Step, Workflow, worker
from tests.support import virtual
from tests.workflows.mortals import Mortals

EVERY = bool(os.environ.get("TASKCORE_WORKFLOW_SWEEP"))  #: visit each point at each of its visits, not at a few
pytestmark = pytest.mark.timeout(7_200 if EVERY else 120)

OWN = {
    "workflow.planned", "workflow.begun", "workflow.ended", "workflow.counted", "workflow.closed", "workflow.continued",
    "workflow.expanding", "workflow.expanded",
}  # fmt: skip


class Played:
    """A workflow that ran: its outcome, and what the workers did."""

    def __init__(self, outcome: Any, mortals: Mortals) -> None:
        self.outcome = outcome
        self.mortals = mortals


def play(build: Callable[[Workflow, App], Step[Any]], crash: AbstractContextManager[Any]) -> Played:
    """Run a workflow whose worker, or whose sender, dies as ``crash`` says."""
    mortals: Mortals

    def declare(app: App) -> None:
        @app.task(name="add", crashes=50)
        async def add(a: int, b: int = 1) -> int:
            mortals.note_start()
            return a + b

        @app.task(name="fail", crashes=50, retry=None)
        async def fail(a: int) -> int:
            mortals.note_start()
            raise ValueError("as asked")

        @app.task(name="total", crashes=50)
        async def total(numbers: list[int]) -> int:
            mortals.note_start()
            return sum(numbers)

        @app.task(name="numbers", crashes=50)
        async def numbers(n: int) -> list[int]:
            mortals.note_start()
            return list(range(n))

        @app.task(name="is-even", crashes=50)
        async def is_even(a: int) -> bool:
            mortals.note_start()
            return a % 2 == 0

    async def story() -> Any:
        nonlocal mortals
        mortals = Mortals(declare, lease=10.0, concurrency=10)
        async with mortals.living(mortals.again_and_again) as app:
            with crash:
                for _ in range(2):  # a sender that died sends again, under the same id
                    workflow = app.workflow("sweep", id="sweep")
                    last = build(workflow, app)
                    try:
                        run = await workflow.submit(last)
                    except SimulatedCrash:
                        continue
                    break
                outcome = await run.outcome(timeout=3_000)
                await app.drain(timeout=3_000)
                return outcome

    outcome = anyio.run(story, backend_options=virtual.options("asyncio"))
    return Played(outcome, mortals)


def chain(workflow: Workflow, app: App) -> Step[Any]:
    """Build three steps."""
    add: Any = app.tasks["add"]
    return workflow.step(add, 1).then(add).then(add)


def diamond(workflow: Workflow, app: App) -> Step[Any]:
    """Build two branches that meet, and one that is skipped."""
    add: Any = app.tasks["add"]
    first = workflow.step(add, 1)
    left, right = workflow.step(add, first.out), workflow.step(add, first.out, 2)
    flag = workflow.step(app.tasks["is-even"], left.out)
    skipped = workflow.step(add, left.out).when(flag.out)
    behind = workflow.step(add, skipped.out)
    return workflow.step(add, left.out, right.out).after(behind)


def wide(workflow: Workflow, app: App) -> Step[Any]:
    """Build a map over 300 elements: two leaves of marks, and a collector."""
    return workflow.map(app.tasks["add"], range(300)).then(app.tasks["total"])


def nested(workflow: Workflow, app: App) -> Step[Any]:
    """Build a map over a result, a map over that map, an alternative, and a join of both."""
    add: Any = app.tasks["add"]
    found = workflow.step(app.tasks["numbers"], 520)
    twice = workflow.map(add, workflow.map(add, found.out).out)
    other = workflow.step(app.tasks["fail"], 1).otherwise(add, 5)
    return workflow.step(add, workflow.step(app.tasks["total"], twice.out).out, other.out)


def failing(workflow: Workflow, app: App) -> Step[Any]:
    """Build a step that fails while another one runs."""
    add: Any = app.tasks["add"]
    return workflow.step(add, workflow.step(app.tasks["fail"], 1).out, workflow.step(add, 1).out)


SCENARIOS = {chain: 4, diamond: 7, wide: sum(range(1, 301)), nested: sum(range(520)) + 2 * 520 + 6, failing: None}
FEW = {chain: 99, diamond: 99, failing: 99, wide: 2, nested: 1}  #: visits of a point that are tried in CI


def visits(number: int, few: int) -> list[int]:
    """Choose visits of a point: all, or some of the first and the last one."""
    if EVERY or number <= few:
        return list(range(1, number + 1))
    step = max(number // few, 1)
    return sorted({*range(1, number + 1, step), number})


@pytest.mark.parametrize("build", SCENARIOS, ids=lambda build: build.__name__)
def test_a_death_at_any_point(build: Callable[[Workflow, App], Step[Any]]) -> None:
    """The outcome is the same, no step starts whose outcome is stored, and none more than once for each death."""
    with passing() as names:
        plain = play(build, nullcontext())
    expected = SCENARIOS[build]
    assert isinstance(plain.outcome, Dead if expected is None else Succeeded)
    assert set(plain.mortals.started.values()) == {1}
    passed = Counter(names)
    for point, number in passed.items():
        for visit in visits(number, FEW[build]):
            played = play(build, crash_at(point, visit=visit))
            where = f"{point}, visit {visit} of {number}"
            if expected is None:
                assert isinstance(played.outcome, Dead | Cancelled), where
            else:
                assert played.outcome == Succeeded(expected), where
                assert played.mortals.started.keys() == plain.mortals.started.keys(), where
            assert not played.mortals.too_late, where
            assert max(played.mortals.started.values()) <= 1 + played.mortals.deaths, where
            assert played.mortals.deaths <= 1, where


def test_every_point_of_workflows_is_passed() -> None:
    """The scenarios pass each failpoint of workflows, so that the sweep visits it."""
    with passing() as names:
        play(nested, nullcontext())
    assert set(names) >= OWN


def test_the_sweep_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not repeat what follows from a stored outcome is found out: the workflow waits."""
    advances = worker._advances
    monkeypatch.setattr(worker, "_advances", lambda one: advances(one) and not isinstance(one.outcome, AlreadyDone))
    with pytest.raises(BaseExceptionGroup) as caught:
        play(chain, crash_at("workflow.ended"))
    assert caught.group_contains(ResultTimeout)
