"""Building workflows: what fits, what is refused, and that all faults are named at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from taskcore import App
from taskcore.errors import InvalidArguments, InvalidSetting, StoreRequired
from taskcore.workflows import InvalidWorkflow, Workflow

pytestmark = pytest.mark.timeout(60)


@dataclass
class Page:
    """What a fetch returns."""

    text: str


app = App("memory://")


@app.task(name="fetch")
async def fetch(url: str, retries: int = 1) -> Page:
    """Return a page."""
    return Page(url * retries)


@app.task(name="count")
async def count(page: Page, *, deep: bool = False) -> int:
    """Count."""
    return len(page.text) + deep


@app.task(name="links")
async def links(page: Page, limit: int) -> list[str]:
    """List."""
    return [page.text] * limit


@app.task(name="report")
async def report(words: int, links: list[str]) -> str:
    """Join."""
    return f"{words} {links}"


@app.task(name="once", delivery="at_most_once")
async def once(words: int) -> int:
    """Run at most once."""
    return words


@app.task(name="is-big")
async def is_big(words: int) -> bool:
    """Judge."""
    return words > 3


def refusal(workflow: Workflow, last: Any) -> InvalidWorkflow:
    """Submit a workflow that is refused; return why."""

    async def submit() -> InvalidWorkflow:
        async with app:
            with pytest.raises(InvalidWorkflow) as caught:
                await workflow.submit(last)
            assert not (await app.stats()).ready
        return caught.value

    return anyio.run(submit)


def test_all_faults_are_named_at_once() -> None:
    """Every fault has a line with its place; nothing is sent."""
    workflow = app.workflow("faulty")
    page = workflow.step(fetch, "x")
    words = workflow.step(count, page.out)
    done = workflow.step(report, page.out, words.out)  # type: ignore[arg-type]
    workflow.step(once, words.out)
    early = workflow.step(fetch, 5)  # type: ignore[arg-type]
    words.after(done)
    error = refusal(workflow, done)
    assert "has 4 faults" in error.what
    assert len(error.facts) == 4
    assert all(fact.startswith("test_building.py:") for fact in error.facts)
    assert "words takes int, and fetch returns Page; links takes list[str], and count returns int" in error.facts[0]
    assert "runs at most once" in error.facts[1]
    assert "url: expected str, got int 5" in error.facts[2]
    assert "cannot wait for report, which was added after it" in error.facts[3]
    assert early.number == 4


def test_a_single_fault_is_the_error() -> None:
    """One fault alone is raised as it is, as arguments that do not fit are."""
    workflow = app.workflow("one")
    page = workflow.step(fetch, 5)  # type: ignore[arg-type]

    async def submit() -> None:
        async with app:
            with pytest.raises(InvalidArguments, match="expected str"):
                await workflow.submit(page)

    anyio.run(submit)


def wrong_map(workflow: Workflow) -> Any:
    """Map over numbers with a task that takes pages."""
    return workflow.map(count, [1, 2])  # type: ignore[arg-type]


def wrong_list(workflow: Workflow) -> Any:
    """Map over a result that is no list of pages."""
    found = workflow.step(links, workflow.step(fetch, "x").out, 3)
    return workflow.map(count, found.out)  # type: ignore[arg-type]


def wrong_flag(workflow: Workflow) -> Any:
    """Branch by a number."""
    words = workflow.step(count, workflow.step(fetch, "x").out)
    return workflow.step(fetch, "y").when(words.out)  # type: ignore[arg-type]


def other_workflow(workflow: Workflow) -> Any:
    """Take a result of another workflow."""
    return workflow.step(count, app.workflow("other").step(fetch, "x").out)


def may_be_skipped(workflow: Workflow) -> Any:
    """End with a branch."""
    flag = workflow.step(is_big, 5)
    return workflow.step(fetch, "y").when(flag.out)


def late_alternative(workflow: Workflow) -> Any:
    """Add an alternative to a result that a step takes already."""
    page = workflow.step(fetch, "x")
    words = workflow.step(count, page.out)
    page.otherwise(fetch, "y")
    return words


def bad_share(workflow: Workflow) -> Any:
    """Ask for more children than there are."""
    workflow.map(fetch, ["x"]).outcomes(at_least=3)
    return workflow.step(fetch, "x")


def with_an_id(workflow: Workflow) -> Any:
    """Give a step an id of its own."""
    return workflow.step(fetch.using(id="mine"), "x")


def shared_key(workflow: Workflow) -> Any:
    """Give all children one key."""
    return workflow.map(fetch.using(key="mine"), ["x", "y"])


def value_that_cannot_travel(workflow: Workflow) -> Any:
    """Let an object stand in for a result."""
    return workflow.step(fetch, "x").otherwise(object())


def arguments_of_a_value(workflow: Workflow) -> Any:
    """Give arguments to a value."""
    return workflow.step(is_big, 5).otherwise(True, 5)  # type: ignore[call-overload]


def two_names(workflow: Workflow) -> Any:
    """Give two steps one name."""
    workflow.step(fetch, "x").named("page")
    return workflow.step(fetch, "x").named("page")


FAULTS = {
    wrong_map: "page",
    wrong_list: "page takes list",
    wrong_flag: "`when` takes the result of a step that returns a bool",
    other_workflow: "is a step of another workflow",
    may_be_skipped: "may have no result",
    late_alternative: "to which an alternative is added afterwards",
    bad_share: "is not a share from 0 to 1",
    with_an_id: "a step has no id of its own",
    shared_key: "cannot share the key",
    value_that_cannot_travel: "cannot travel",
    arguments_of_a_value: "only a task takes arguments",
    two_names: "cannot both be called 'page'",
}


@pytest.mark.parametrize("build", FAULTS, ids=lambda build: build.__name__)
def test_what_is_refused(build: Any) -> None:
    """What cannot run is refused before anything is sent, with the reason."""
    workflow = app.workflow("faulty")
    last = build(workflow)

    async def submit() -> str:
        async with app:
            with pytest.raises((InvalidWorkflow, InvalidArguments)) as caught:
                await workflow.submit(last)
            return str(caught.value)

    assert FAULTS[build] in anyio.run(submit)


def test_what_fits() -> None:
    """A subclass, a wider type and a default that is left out fit."""
    workflow = app.workflow("fits")
    page = workflow.step(fetch, "x", retries=2)
    words = workflow.step(count, page.out)
    found = workflow.step(links, page.out, limit=2).otherwise([])
    workflow.step(report, words.out, found.out)
    workflow.map(count, workflow.map(fetch, ["a", "b"]).out, deep=True)
    assert not workflow.faults
    assert [step.name for step in workflow.steps] == ["fetch", "count", "links", "report", "fetch-2", "count-2"]


@pytest.mark.parametrize(
    "use",
    [
        lambda out: out.text,
        lambda out: out + 1,
        bool,
        len,
        list,
        lambda out: out == 1,
        lambda out: out[0],
        lambda out: f"{out}",
    ],
)
def test_an_output_has_no_value_yet(use: Any) -> None:
    """Every use of an output but handing it on raises where it is written."""
    out: Any = app.workflow("use").step(fetch, "x").out
    with pytest.raises(InvalidWorkflow, match="is not there while the workflow is built"):
        use(out)


def test_options() -> None:
    """Unknown and impossible options of a workflow are refused, and so is an app without a store."""
    with pytest.raises(InvalidSetting, match="did you mean 'deadline'"):
        app.workflow("x", deadlin="1h")  # type: ignore[call-arg]
    with pytest.raises(InvalidSetting):
        app.workflow("x", id="a\nb")
    with pytest.raises(StoreRequired):
        App("memory://", store="none").workflow("x")


def test_a_task_of_no_app() -> None:
    """What is no task is refused where it is written."""
    with pytest.raises(InvalidWorkflow, match="is not a task"):
        app.workflow("x").step(len, [])  # type: ignore[call-overload]
