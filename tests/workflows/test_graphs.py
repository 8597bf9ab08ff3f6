"""Random workflows come to what the reference says: on one worker, and on workers that die at any moment.

``TASKCORE_WORKFLOW_GRAPHS=1000 pytest tests/workflows/test_graphs.py`` tries as many of each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import wraps
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore import App, Succeeded
from taskcore.workflows import MapStep, Step, Workflow
from tests.support import virtual
from tests.workflows.interpreter import FUNCTIONS, interpret
from tests.workflows.mortals import Mortals

GRAPHS = int(os.environ.get("TASKCORE_WORKFLOW_GRAPHS", "0"))  #: how many are tried; 0: some
KILLING = 60.0  #: seconds for which workers die
pytestmark = pytest.mark.timeout(3_000 if GRAPHS else 120)


def new_app() -> App:
    """Make an app with the tasks of the reference."""
    app = App("memory://", concurrency=5, retry=None)
    for name, function in FUNCTIONS.items():
        app.task(name=name, retry=None)(function)
    return app


@st.composite
def workflows(draw: st.DrawFn, app: App) -> tuple[Workflow, Step[Any], dict[int, list[Any]]]:  # noqa: PLR0912 - dice
    """Draw a workflow of up to twelve steps."""
    workflow, lists = app.workflow("random"), dict[int, list[Any]]()
    numbers, flags, arrays, maps = list[Any](), list[Any](), list[Any](), list[MapStep[Any]]()
    tasks = app.tasks
    step: Any = None
    for _ in range(draw(st.integers(1, 11))):
        kind = draw(st.sampled_from(["combine", "combine", "is-even", "spread", "each", "each"]))
        given: dict[str, Any] = {}
        if numbers and draw(st.booleans()):
            given["b" if kind == "each" else "a"] = draw(st.sampled_from(numbers)).out
        if kind == "combine":
            if len(numbers) > 1 and draw(st.booleans()):
                given["b"] = draw(st.sampled_from(numbers)).out
            if arrays and draw(st.booleans()):
                given["items"] = draw(st.sampled_from(arrays)).out
            given["fails"] = draw(st.integers(0, 5)) == 0
        if kind == "each":
            given["fails_at"] = draw(st.sampled_from([-1, -1, 0, 2]))
            items = draw(st.sampled_from([*arrays, None])) if arrays else None
            known = draw(st.lists(st.integers(0, 3), max_size=4))
            if items is None:
                lists[len(workflow.steps)] = known
            step = workflow.map(tasks[kind], known if items is None else items.out, **given)
            maps.append(step)
        else:
            step = workflow.step(tasks[kind], **given)
        if flags and draw(st.integers(0, 3)) == 0:
            step.when(draw(st.sampled_from(flags)).out)
        if numbers and draw(st.integers(0, 3)) == 0:
            step.after(draw(st.sampled_from(numbers)))
        match draw(st.sampled_from(["none", "none", "skip", "otherwise"])):
            case "skip":
                step.skip()
            case "otherwise":
                step.otherwise({"spread": [7], "is-even": True}.get(kind, 7))
        (numbers if kind == "combine" else flags if kind == "is-even" else arrays).append(step)
    last = workflow.step(tasks["combine"], **({"a": numbers[-1].out} if numbers else {}))
    for one in (*arrays, *numbers, *flags):
        if draw(st.booleans()):
            last.after(one)
    last.otherwise(-1)
    return workflow, last, lists


@settings(max_examples=GRAPHS or 40, deadline=None)
@given(data=st.data())
def test_random_workflows_come_to_what_the_reference_says(data: st.DataObject) -> None:
    """A workflow of any shape has the result of the reference, or fails as it does; none waits for ever."""
    app = new_app()
    workflow, last, lists = data.draw(workflows(app))

    async def run() -> None:
        async with app.running():
            sent = await workflow.submit(last)
            outcome = await sent.outcome(timeout=3)
            reference = interpret(sent.plan, lists)
            assert isinstance(outcome, Succeeded) is not reference.failed, outcome
            if isinstance(outcome, Succeeded):
                assert outcome.value == reference.result

    anyio.run(run)


def slow(function: Callable[..., Any], dice: random.Random, note: Callable[[], None]) -> Callable[..., Any]:
    """Make a task of a function: it notes its start and takes some seconds."""

    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        note()
        await anyio.sleep(dice.random() * 4)
        return function(*args, **kwargs)

    return run


@settings(max_examples=GRAPHS or 25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_random_workflows_on_workers_that_die(data: st.DataObject, seed: int) -> None:
    """Whenever workers die, a workflow comes to what the reference says, and no step starts whose outcome is stored."""
    dice = random.Random(seed)
    mortals: Mortals

    def note() -> None:
        mortals.note_start()

    def declare(app: App) -> None:
        for name, function in FUNCTIONS.items():
            app.task(name=name, retry=None, crashes=1_000)(slow(function, dice, note))

    mortals = Mortals(declare, workers=2, lease=10.0, concurrency=3)
    workflow, last, lists = data.draw(workflows(mortals.sender))

    async def run() -> None:
        async with mortals.living(mortals.at_random(dice, until=virtual.EPOCH + KILLING)) as app:
            sent = await workflow.submit(last)
            outcome = await sent.outcome(timeout=3_000)
            reference = interpret(sent.plan, lists)
            assert isinstance(outcome, Succeeded) is not reference.failed, outcome
            if isinstance(outcome, Succeeded):
                assert outcome.value == reference.result
            await app.drain(timeout=3_000)
            assert not mortals.too_late
            assert max(mortals.started.values(), default=0) <= 1 + mortals.deaths

    anyio.run(run, backend_options=virtual.options("asyncio"))
