"""Parents and children of a job: found from its id alone, before, while and after it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskcore import App, Retry, current
from taskcore.stores.memory import MemoryStore
from taskcore.workflows import JobFamily, continue_with, spawn
from tests.support import virtual

pytestmark = pytest.mark.timeout(60)


class Crawl:
    """An app whose tasks go on as workflows, and the ids of the jobs that ran."""

    def __init__(self) -> None:
        self.app = App("memory://", store=MemoryStore(), clock=virtual.clock, keep_result="1d", retry=Retry(attempts=1))
        self.ids: dict[str, str] = {}

        @self.app.task(name="leaf")
        async def leaf(n: int) -> int:
            self.ids[f"leaf-{n}"] = current().job_id
            if n == 13:
                raise ValueError("thirteen")
            return n

        @self.app.task(name="total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        @self.app.task(name="site")
        async def site(pages: list[int]) -> int:
            workflow = self.app.workflow("pages")
            return continue_with(workflow.map(leaf, pages).then(total))

        @self.app.task(name="night")
        async def night(sites: int) -> str:
            for number in range(sites):
                spawn(site.call([10 * number, 10 * number + 1]))
            return "done"

        self.leaf, self.site, self.night = leaf, site, night


def play(story: Callable[[Crawl], Awaitable[None]]) -> None:
    """Play a story with an app that is open."""

    async def whole() -> None:
        crawl = Crawl()
        async with crawl.app:
            await story(crawl)

    anyio.run(whole, backend_options=virtual.options("asyncio"))


def lines(family: JobFamily) -> list[tuple[Any, ...]]:
    """List what each parent says."""
    return [(one.name, one.status, one.step, one.index) for one in family.parents]


def test_a_job_names_all_above_it_and_all_below() -> None:
    """A leaf names each workflow above it with the step that leads to it; each of them names the next job below."""

    async def story(crawl: Crawl) -> None:
        job = await crawl.night.enqueue(3)
        async with crawl.app.running():
            assert await job.result(timeout=600) == "done"
        family = crawl.app.workflows.family
        leaf = await family(crawl.ids["leaf-21"])
        assert lines(leaf) == [("night", "succeeded", "site", 2), ("pages", "succeeded", "leaf", 1)]
        assert leaf.parents[0].id == job.id
        assert (leaf.workflow, leaf.children) == (None, ())
        top = await family(job.id)
        assert top.parents == ()
        assert [(one.step, one.index, one.status) for one in top.children] == [
            ("site", number, "succeeded") for number in range(3)
        ]
        middle = await family(top.children[2].id)
        assert middle.id == leaf.parents[1].id
        assert lines(middle) == lines(leaf)[:1]
        assert [(one.step, one.index, one.status) for one in middle.children] == [
            ("leaf", 0, "succeeded"), ("leaf", 1, "succeeded"), ("total", None, "succeeded"),
        ]  # fmt: skip
        assert middle.children[1].id == crawl.ids["leaf-21"]
        assert len((await family(job.id, limit=2)).children) == 2

    play(story)


def test_jobs_that_have_not_run() -> None:
    """Parents and children of a workflow that waits for a worker are known."""

    async def story(crawl: Crawl) -> None:
        workflow = crawl.app.workflow("wait")
        first = workflow.step(crawl.leaf, 1)
        run = await workflow.submit(workflow.map(crawl.leaf, range(300)).after(first))
        found = await crawl.app.workflows.family(run.id, limit=1_000)
        assert [(one.step, one.index, one.status) for one in found.children][:2] == [
            ("leaf", None, "ready"), ("leaf-2", 0, "waiting"),
        ]  # fmt: skip
        assert len(found.children) == 301
        last = await crawl.app.workflows.family(found.children[-1].id)
        assert lines(last) == [("wait", "running", "leaf-2", 299)]

    play(story)


def test_children_that_failed() -> None:
    """A child that failed says so, and those that did not start because of it are stopped."""

    async def story(crawl: Crawl) -> None:
        workflow = crawl.app.workflow("fail")
        bad = workflow.step(crawl.leaf, 13)
        both = workflow.map(crawl.leaf, [1, 2]).after(bad)
        run = await workflow.submit(workflow.step(crawl.leaf, 1).after(both))
        async with crawl.app.running():
            await run.outcome(timeout=600)
            await crawl.app.drain()
        found = await crawl.app.workflows.family(run.id)
        assert [one.status for one in found.children] == ["dead", "stopped", "stopped", "stopped"]

    play(story)


def test_a_job_of_a_batch() -> None:
    """A job of a batch names the batch."""

    async def story(crawl: Crawl) -> None:
        async with crawl.app.running():
            async with crawl.app.batch("import") as batch:
                await batch.add_many(crawl.leaf.call(n) for n in range(3))
            await batch.wait(timeout=600)
        [parent] = (await crawl.app.workflows.family(crawl.ids["leaf-2"])).parents
        assert (parent.id, parent.name, parent.step, parent.index) == (batch.id, "import", "jobs", 2)
        found = await crawl.app.workflows.family(batch.id)
        assert [one.id for one in found.children] == [crawl.ids[f"leaf-{n}"] for n in range(3)]

    play(story)


@pytest.mark.parametrize("id", ["", "nothing", "0" * 36, "\x00", "01a22d5c-626e-744b-ae89-2b033d0ac0a2"])
def test_a_job_of_no_workflow(id: str) -> None:
    """A job that stands alone, and an id that is none, have no parents and no children."""

    async def story(crawl: Crawl) -> None:
        assert await crawl.app.workflows.family(id) == JobFamily(id=id)

    play(story)
