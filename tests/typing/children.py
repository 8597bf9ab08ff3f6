"""Jobs that go on as type checkers see them; read by them, never run. See api.py."""

from __future__ import annotations

from typing import assert_type

from taskcore import App
from taskcore.workflows import Batch, BatchProgress, continue_with, spawn

app = App("memory://")


@app.task
async def count(page: str) -> int:
    """Count words."""
    raise NotImplementedError


@app.task
async def total(words: list[int]) -> int:
    """Add."""
    raise NotImplementedError


@app.task
async def crawl(pages: list[str]) -> int:
    """Go on as a workflow with the declared result."""
    workflow = app.workflow("pages")
    return continue_with(workflow.step(total, workflow.map(count, pages).out))


@app.task
async def each(pages: list[str]) -> list[int]:
    """Go on as a map."""
    workflow = app.workflow("pages")
    return continue_with(workflow.map(count, pages))


@app.task
def chain(page: str) -> str:
    """Go on as a workflow with another result than the declared one."""
    workflow = app.workflow("pages")
    words = workflow.step(count, page)
    return continue_with(words)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@app.task
async def nightly(pages: list[str]) -> None:
    """Spawn calls."""
    for page in pages:
        spawn(count.call(page))
        spawn(count.using(delay="5m").call(page), tolerate=True)
    page = "one more"
    spawn(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    spawn(count.call(page), tolerates=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def results() -> None:
    """Read a result that another job made."""
    assert_type(await (await crawl.enqueue(["x"])).result(), int)
    assert_type(await (await each.enqueue(["x"])).result(), list[int])


async def batches() -> None:
    """Add calls of any task to a batch."""
    async with app.batch("import", on_complete=count.call("x"), on_success=nightly.call([]), open_for="2h") as batch:
        assert_type(batch, Batch)
        await batch.add(count.call("x"))
        await batch.add_many(total.call([n]) for n in range(3))
        await batch.add(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await batch.progress(), BatchProgress)
    assert_type((await batch.wait(timeout="1h")).failed, int)
    assert_type(await batch.cancel(), bool)
    app.batch("import", on_failure=count.call("x"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
