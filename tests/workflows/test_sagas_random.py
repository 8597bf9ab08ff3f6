"""Random workflows with compensations, on workers that die at any moment: all effects stay, or none that can be undone.

``TASKCORE_WORKFLOW_GRAPHS=1000 pytest tests/workflows/test_sagas_random.py`` tries as many.
"""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore import App, Cancelled, Dead, Succeeded
from taskcore.workflows import Run, Step
from tests.support import virtual
from tests.workflows.mortals import Mortals

GRAPHS = int(os.environ.get("TASKCORE_WORKFLOW_GRAPHS", "0"))  #: how many are tried; 0: some
KILLING = 40.0  #: seconds for which workers die
pytestmark = pytest.mark.timeout(3_000 if GRAPHS else 120)


class Place(NamedTuple):
    """One step of a random saga.

    :param behind: the steps that it waits for.
    :param undo: how it is undone: not at all, by its own result, or without it.
    :param fails: it fails, after it had its effect.
    """

    behind: frozenset[int]
    undo: str
    fails: bool


class Shop:
    """Effects that can be undone, and what runs at the moment."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.mortals = Mortals(self.declare, workers=2, lease=10.0, concurrency=4, keep_result="1d")
        self.effects: dict[str, int] = {}
        self.running: list[str] = []
        self.hasty: list[str] = []

    def declare(self, app: App) -> None:
        """Give an app the tasks."""

        @app.task(name="do", retry=1, crashes=1_000)
        async def do(what: str, fails: bool) -> str:
            self.running.append(what)
            try:
                await anyio.sleep(self.dice.random() * 3)
                self.effects[what] = 1
                await anyio.sleep(self.dice.random())
            finally:
                self.running.remove(what)
            if fails:
                raise ValueError(what)
            return what

        @app.task(name="undo", retry=1, crashes=1_000)
        async def undo(what: str) -> None:
            self.hasty += self.running
            await anyio.sleep(self.dice.random())
            self.effects[what] = 0


@st.composite
def places(draw: st.DrawFn) -> list[Place]:
    """Draw the steps of a saga; at least one can be undone."""
    number = draw(st.integers(2, 7))
    drawn = [
        Place(
            draw(st.frozensets(st.integers(0, place - 1), max_size=2)) if place else frozenset(),
            draw(st.sampled_from(["own", "any", "any", ""])),
            draw(st.integers(0, 5)) == 0,
        )
        for place in range(number)
    ]
    return [drawn[0]._replace(undo=drawn[0].undo or "any"), *drawn[1:]]


async def submit(app: App, steps: list[Place]) -> Run[str]:
    """Send the saga; its last step waits for all others."""
    tasks: Any = app.tasks
    workflow, built = app.workflow("random", deadline="1h"), list[Step[str]]()
    for number, place in enumerate(steps):
        step = workflow.step(tasks["do"], str(number), place.fails).named(str(number))
        step.after(*(built[other] for other in place.behind))
        if place.undo:
            step.compensate(tasks["undo"], step.out if place.undo == "own" else str(number))
        built.append(step)
    return await workflow.submit(workflow.step(tasks["do"], "last", False).named("last").after(*built))


@settings(max_examples=GRAPHS or 25, deadline=None)
@given(steps=places(), seed=st.integers(0, 10**6), cancel=st.sampled_from([None, None, 2.0, 6.0]))
def test_random_sagas_on_workers_that_die(steps: list[Place], seed: int, cancel: float | None) -> None:
    """Outcome, effects and report agree with each other and with a reference; nothing is undone too early."""
    shop = Shop(random.Random(seed))

    async def story() -> None:
        async with shop.mortals.living(shop.mortals.at_random(shop.dice, until=virtual.EPOCH + KILLING)) as app:
            run = await submit(app, steps)
            cancelled = False
            if cancel is not None:
                await anyio.sleep(cancel)
                cancelled = await run.cancel()
            outcome = await run.outcome(timeout=3_000)
            fails = any(place.fails for place in steps)
            assert isinstance(outcome, Succeeded) is not (fails or cancelled), outcome
            assert isinstance(outcome, Succeeded | Dead | Cancelled)
            await judge(run, steps, shop, well=isinstance(outcome, Succeeded))

    anyio.run(story, backend_options=virtual.options("asyncio"))


async def judge(run: Run[str], steps: list[Place], shop: Shop, *, well: bool) -> None:
    """Compare the report and the effects with how each step ended."""
    report = await run.compensation()
    assert not shop.hasty
    if well:
        assert report.state == "none"
        assert set(shop.effects.values()) == {1}
        return
    assert report.state == "done"
    ends = {step.name: step.status for step in (await run.state()).steps}
    undone = [
        str(number)
        for number, place in reversed([*enumerate(steps)])
        if place.undo and (ends[str(number)] == "succeeded" or (ends[str(number)] == "dead" and place.undo == "any"))
    ]
    assert list(report.undone) == undone
    for number, place in enumerate(steps):
        if place.undo == "any" or (place.undo and ends[str(number)] == "succeeded"):
            assert not shop.effects.get(str(number)), (number, report)
        if place.undo == "own" and shop.effects.get(str(number)):
            assert place.fails or str(number) in report.unknown
