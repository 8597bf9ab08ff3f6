"""Workflows as type checkers see them; read by them, never run. See api.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

from taskcore import App, Job, SyncJob
from taskcore.blocking.workflows import SyncRun
from taskcore.workflows import Chain, ChildOutcome, FirstOf, MapStep, Run, Step, WorkflowProgress, WorkflowState

app = App("memory://")


class Page:
    """What a fetch returns."""


class Rich(Page):
    """A page with pictures."""


@app.task
async def fetch(url: str, retries: int = 1) -> Page:
    """Return a page."""
    raise NotImplementedError


@app.task
async def fetch_rich(url: str) -> Rich:
    """Return a rich page."""
    raise NotImplementedError


@app.task
async def links(page: Page, limit: int) -> list[str]:
    """Return links."""
    raise NotImplementedError


@app.task
def count(page: Page, *, deep: bool = False) -> int:
    """Count words."""
    raise NotImplementedError


@app.task
async def report(words: int, links: list[str]) -> str:
    """Write a report."""
    raise NotImplementedError


@app.task
async def maybe(words: int | None) -> str:
    """Take a number or nothing."""
    raise NotImplementedError


@app.task
async def is_big(words: int) -> bool:
    """Judge."""
    raise NotImplementedError


@app.task
async def total(words: Sequence[int]) -> int:
    """Add."""
    raise NotImplementedError


@app.task
async def tolerant(words: list[ChildOutcome[int]]) -> int:
    """Add what there is."""
    raise NotImplementedError


async def chains() -> None:
    """Fit each result to the first parameter of the next task."""
    chain = assert_type(fetch.call("x").then(count, deep=True), Chain[int])
    run = assert_type(await chain.submit(deadline="1h"), Run[int])
    assert_type(await run.result(timeout=5), int)
    assert_type(await fetch.using(delay=5).call("x").then(links, 10).submit(), Run[list[str]])
    assert_type(fetch_rich.call("x").then(count.using(timeout=5)), Chain[int])
    fetch.call("x").then(report, [])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    fetch.call("x").then(count, deep="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.call("x").then(links)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fetch.call("x").then(count).then(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await chain.submit(deadlin="1h")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def graphs() -> None:
    """``out`` is the value itself."""
    workflow = app.workflow("site-report", deadline="2h", id="mine")
    page = assert_type(workflow.step(fetch, "x", retries=2), Step[Page])
    words = assert_type(workflow.step(count, page.out, deep=True), Step[int])
    found = assert_type(workflow.step(links, page.out, limit=10).otherwise([]), Step[list[str]])
    perhaps = assert_type(words.otherwise(None), Step[int | None])
    rich = workflow.step(fetch_rich, "x")
    workflow.step(count, rich.out)
    workflow.step(maybe, perhaps.out)
    done = assert_type(workflow.step(report.using(timeout=5), words.out, found.out).after(page), Step[str])
    assert_type(words.then(maybe), Step[str])
    big = workflow.step(is_big, words.out)
    branch = workflow.step(fetch, "y").when(big.out).otherwise(fetch, "z")
    assert_type(branch, Step[Page])
    assert_type(workflow.first_of(page, branch), FirstOf[Page])
    run = assert_type(await workflow.submit(done), Run[str])
    assert_type(run[words], Job[int])
    assert_type(await run[words].result(), int)
    assert_type(await run.progress(), WorkflowProgress)
    assert_type(await run.cancel(), bool)

    workflow.step(fetch, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.step(fetch)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workflow.step(count, words.out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.step(report, perhaps.out, found.out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.step(report, words.out, words.out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.step(links, page.out, limits=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workflow.step(fetch, "y").when(words.out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    words.then(report)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    words.then(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    done.after("page")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await workflow.submit("last")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def maps() -> None:
    """Make lists of results."""
    workflow = app.workflow("maps")
    pages = assert_type(workflow.map(fetch, ["x", "y"], retries=3), MapStep[Page])
    counts = assert_type(workflow.map(count, pages.out, deep=True), MapStep[int])
    assert_type(counts.out, list[int])
    assert_type(workflow.step(total, counts.out), Step[int])
    assert_type(counts.then(total), Step[int])
    workflow.step(tolerant, counts.outcomes(at_least=0.9))
    run = assert_type(await workflow.submit(counts), Run[list[int]])
    assert_type(run.child(counts, 3), Job[int])
    found = workflow.step(links, workflow.step(fetch, "x").out, 5)
    workflow.map(fetch, found.out)

    workflow.map(count, found.out)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    workflow.step(total, found.out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.step(total, counts.outcomes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.map(links, pages.out)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asking() -> None:
    """Ask for a workflow that was sent."""
    assert_type(await app.workflows.show("mine"), WorkflowState)
    assert_type((await app.workflows.replay("mine")).id, str)
    assert_type(await app.workflows.cancel("mine"), bool)


def without_a_loop() -> None:
    """Use the blocking forms."""
    workflow = app.workflow("blocking")
    words = workflow.step(count, workflow.step(fetch, "x").out)
    run = assert_type(app.sync.workflows.submit(words), SyncRun[int])
    assert_type(run.result(timeout=5), int)
    assert_type(run[words], SyncJob[int])
    assert_type(app.sync.workflows.submit(workflow.map(count, [Page()])), SyncRun[list[int]])
    assert_type(app.sync.workflows.submit(fetch.call("x").then(count)), SyncRun[int])
    assert_type(app.sync.workflows.show("mine"), WorkflowState)
