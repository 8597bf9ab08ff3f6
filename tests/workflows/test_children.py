"""Children: a job that goes on as a workflow, and jobs that it spawns."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Dead, Job, JobFailed, NotRunning, Retry, Succeeded, current
from taskcore.errors import InvalidArguments, StoreRequired
from taskcore.stores.memory import MemoryStore
from taskcore.workflows import InvalidWorkflow, continue_with, spawn
from tests.support import virtual

pytestmark = pytest.mark.timeout(120)


def new_app(**settings: Any) -> App:
    """Make an app in memory, under a virtual clock."""
    settings = {"retry": Retry(attempts=3), "keep_result": "1d"} | settings
    return App("memory://", store=MemoryStore(), clock=virtual.clock, **settings)


def run(app: App, play: Callable[[], Awaitable[None]], **options: Any) -> None:
    """Play while a worker runs."""

    async def whole() -> None:
        async with app.running(**options):
            await play()

    anyio.run(whole, backend_options=virtual.options("asyncio"))


def test_a_tree_of_1365_jobs_ends_with_one_slot() -> None:
    """No slot waits for a child: with one slot, jobs that go on five levels deep all end."""
    app, runs = new_app(), list[int]()

    @app.task(name="total")
    async def total(counts: list[int]) -> int:
        return 1 + sum(counts)

    @app.task(name="crawl")
    async def crawl(depth: int) -> int:
        runs.append(depth)
        if not depth:
            return 1
        workflow = app.workflow("crawl")
        return continue_with(workflow.step(total, workflow.map(crawl, [depth - 1] * 4).out))

    async def play() -> None:
        job = await crawl.enqueue(5)
        assert await job.result(timeout=600) == 1365
        assert len(runs) == 1365

    run(app, play, concurrency=1)


@pytest.mark.parametrize("fails", [0, 2])
def test_a_failed_attempt_spawns_nothing(fails: int) -> None:
    """Of three attempts, of which two fail after they spawned, one has children."""
    app, runs = new_app(), list[int]()

    @app.task(name="child")
    async def child(n: int) -> None:
        runs.append(n)

    @app.task(name="parent")
    async def parent() -> int:
        for n in range(100):
            spawn(child.call(n))
        if current().attempt <= fails:
            raise ValueError("not yet")
        return current().attempt

    async def play() -> None:
        assert await (await parent.enqueue()).result(timeout=600) == fails + 1
        assert sorted(runs) == list(range(100))

    run(app, play)


def test_a_job_that_spawns_ends_after_its_children() -> None:
    """Calls of several tasks, with options and keys of their own, are all over when the parent's outcome is there."""
    app, ran = new_app(), list[Any]()

    @app.task(name="child")
    async def child(n: int) -> None:
        await anyio.sleep(n)
        ran.append((n, current().key, current().headers.get("tenant")))

    @app.task(name="keyed", key="n")
    async def keyed(n: int) -> None:
        ran.append((n, current().key, None))

    @app.task(name="parent")
    async def parent() -> str:
        spawn(child.call(3))
        spawn(child.using(headers={"tenant": "a"}, delay="5m").call(4))
        spawn(child.using(key="mine").call(5))
        spawn(keyed.call(6))
        return "all"

    async def play() -> None:
        job = await parent.enqueue()
        assert await job.result(timeout=600) == "all"
        assert sorted(ran) == [(3, None, None), (4, None, "a"), (5, "mine", None), (6, "6", None)]

    run(app, play)


def test_a_child_that_fails() -> None:
    """The parent is dead with its name and reason, unless it tolerates that; those that wait do not start."""
    app, ran = new_app(retry=Retry(attempts=1)), list[int]()

    @app.task(name="child")
    async def child(n: int) -> None:
        if n == 1:
            raise ValueError("one")
        ran.append(n)

    @app.task(name="parent")
    async def parent(tolerate: bool) -> int:
        spawn(child.call(1), tolerate=tolerate)
        spawn(child.using(delay="1h").call(2), tolerate=tolerate)
        return 7

    async def play() -> None:
        job = await parent.enqueue(False)
        outcome = await job.outcome(timeout=600)
        assert isinstance(outcome, Dead)
        assert "child[0]" in outcome.reason
        assert outcome.record is not None
        assert outcome.record.message == "one"
        with pytest.raises(JobFailed, match=r"child\[0\]"):
            await job.result(timeout=0)
        await anyio.sleep(7200)
        assert ran == []
        assert await (await parent.enqueue(True)).result(timeout=7200) == 7
        assert ran == [2]

    run(app, play)


def test_a_key_stays_with_a_job_that_goes_on() -> None:
    """While its children run and afterwards, the key answers with the one job and its result."""
    app, starts = new_app(), list[int]()

    @app.task(name="child")
    async def child(n: int) -> int:
        await anyio.sleep(60)
        return n + 1

    @app.task(name="parent", key="n")
    async def parent(n: int) -> int:
        starts.append(n)
        return continue_with(child.call(n).then(child))

    async def play() -> None:
        jobs = [await parent.enqueue(5)]
        await anyio.sleep(1)
        jobs += [await parent.enqueue(5) for _ in range(9)]
        assert {job.id for job in jobs} == {jobs[0].id}
        assert await jobs[0].status() == "running"
        assert {await job.result(timeout=600) for job in jobs} == {7}
        assert await (await parent.enqueue(5)).result(timeout=0) == 7
        assert starts == [5]

    run(app, play)


def test_a_key_is_free_after_children_that_failed() -> None:
    """A key whose job went on and is dead starts a new job."""
    app, starts = new_app(retry=Retry(attempts=1)), list[int]()

    @app.task(name="child")
    async def child(n: int) -> int:
        if len(starts) == 1:
            raise ValueError(n)
        return n

    @app.task(name="parent", key="n")
    async def parent(n: int) -> int:
        starts.append(n)
        return continue_with(child.call(n).then(child))

    async def play() -> None:
        first = await parent.enqueue(5)
        assert isinstance(await first.outcome(timeout=600), Dead)
        second = await parent.enqueue(5)
        assert second.id != first.id
        assert await second.result(timeout=600) == 5

    run(app, play)


def test_eight_levels_and_no_more() -> None:
    """The ninth workflow within others is refused where it is written, and the job fails with the reason."""
    app = new_app(retry=Retry(attempts=1))

    @app.task(name="same")
    async def same(n: int) -> int:
        return n

    @app.task(name="deeper")
    async def deeper(level: int) -> int:
        return continue_with(deeper.call(level - 1).then(same)) if level else 0

    async def play() -> None:
        assert await (await deeper.enqueue(8)).result(timeout=600) == 0
        outcome = await (await deeper.enqueue(9)).outcome(timeout=600)
        assert isinstance(outcome, Dead)
        assert outcome.record is not None
        assert "8 workflows lie within each other" in outcome.record.message

    run(app, play)


def test_cancelling_reaches_the_innermost_workflow() -> None:
    """When a run is cancelled, no job of a workflow below it starts any more, and its waiters learn it."""
    app, ran, inner = new_app(), list[str](), list[Job[int]]()

    @app.task(name="slow")
    async def slow(n: int) -> int:
        ran.append("slow")
        await anyio.sleep(60)
        return n

    @app.task(name="after")
    async def after(n: int) -> int:
        ran.append("after")
        return n

    @app.task(name="parent")
    async def parent(n: int) -> int:
        return continue_with(slow.call(n).then(after))

    async def play() -> None:
        workflow = app.workflow("outer")
        step = workflow.step(parent, 1)
        sent = await workflow.submit(workflow.step(after, step.out))
        inner.append(sent[step])
        await anyio.sleep(1)
        assert await sent.cancel()
        assert await inner[0].outcome(timeout=600) == Cancelled()
        await anyio.sleep(600)
        assert ran == ["slow"]

    run(app, play)


def test_a_step_that_goes_on_gives_its_result_to_the_next() -> None:
    """In a map and in a chain, the result of a job's workflow is the result of the job."""
    app = new_app()

    @app.task(name="twice")
    async def twice(n: int) -> int:
        return 2 * n

    @app.task(name="goes-on")
    async def goes_on(n: int) -> int:
        return continue_with(twice.call(n).then(twice))

    @app.task(name="spawns")
    async def spawns(n: int) -> int:
        spawn(goes_on.call(n))
        return n + 1

    @app.task(name="total")
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async def play() -> None:
        workflow = app.workflow("outer")
        numbers = workflow.map(goes_on, [1, 2, 3])
        last = workflow.step(spawns, workflow.step(total, numbers.out).out)
        assert await (await workflow.submit(last)).result(timeout=600) == 25

    run(app, play)


def test_both_at_once() -> None:
    """A job that goes on as a workflow and spawns ends when both have ended, with the result of the workflow."""
    app, ran = new_app(), list[int]()

    @app.task(name="child")
    async def child(n: int) -> int:
        await anyio.sleep(n)
        ran.append(n)
        return n

    @app.task(name="parent")
    async def parent() -> int:
        spawn(child.call(500))
        workflow = app.workflow("both")
        return continue_with(workflow.step(child, 5))

    async def play() -> None:
        assert await (await parent.enqueue()).result(timeout=600) == 5
        assert ran == [5, 500]

    run(app, play)


def test_what_cannot_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """Outside of a job, at most once, twice, with an id, with another type, with no call: each says what to do."""
    app = new_app(retry=Retry(attempts=1))
    said = list[Exception]()

    @app.task(name="child")
    async def child(n: int) -> int:
        return n

    @app.task(name="text")
    async def text(n: int) -> str:
        return str(n)

    @app.task(name="once", delivery="at_most_once")
    async def once(n: int) -> int:
        return n

    async def attempt(act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            said.append(error)

    @app.task(name="parent")
    async def parent() -> int:
        workflow = app.workflow("other", id="mine")
        wrong: Any = "child"
        await attempt(lambda: spawn(once.call(1)))
        await attempt(lambda: spawn(child.using(id="mine").call(1)))
        await attempt(lambda: continue_with(workflow.step(child, 1)))
        await attempt(lambda: spawn(wrong))
        await attempt(lambda: continue_with(wrong))
        await attempt(lambda: continue_with(child.call(1).then(text)))
        rest = continue_with(child.call(1).then(child))
        await attempt(lambda: continue_with(child.call(1).then(child)))
        return rest

    @app.task(name="only", delivery="at_most_once")
    async def only() -> None:
        await attempt(lambda: spawn(child.call(1)))

    with pytest.raises(NotRunning):
        spawn(child.call(1))

    async def play() -> None:
        assert await (await parent.enqueue()).outcome(timeout=60) == Succeeded(1)
        await (await only.enqueue()).outcome(timeout=60)

    run(app, play)
    wrongs = [*[InvalidWorkflow] * 3, *[InvalidArguments] * 2, *[InvalidWorkflow] * 3]
    assert [type(error) for error in said] == wrongs
    assert all(getattr(error, "fix", None) for error in said)


def test_functions_in_threads_go_on() -> None:
    """A plain function goes on and spawns as a coroutine does."""
    app = App("memory://", keep_result="1d")

    @app.task(name="child")
    def child(n: int) -> int:
        return n + 1

    @app.task(name="parent")
    def parent(n: int) -> int:
        spawn(child.call(n))
        return continue_with(child.call(n).then(child))

    async def play() -> None:
        async with app.running():
            assert await (await parent.enqueue(1)).result(timeout=30) == 3

    anyio.run(play)


def test_without_a_store() -> None:
    """A worker without a store says that it needs one."""
    app = App("memory://", store="none", clock=virtual.clock, retry=Retry(attempts=1))
    said = list[Exception]()

    @app.task(name="child")
    async def child() -> None: ...

    @app.task(name="parent")
    async def parent() -> None:
        try:
            spawn(child.call())
        except StoreRequired as error:
            said.append(error)

    async def play() -> None:
        await parent.enqueue()
        await anyio.sleep(5)

    run(app, play)
    assert len(said) == 1


def test_a_job_that_waits_in_its_slot_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    """A task that waits for a job of its own worker is named in the log once, with the way out."""
    app = new_app()

    @app.task(name="awaited")
    async def awaited(n: int) -> int:
        return n

    @app.task(name="waits-in-slot")
    async def waits(n: int) -> int:
        return await (await awaited.enqueue(n)).result(timeout=600)

    @app.task(name="elsewhere", queue="elsewhere")
    async def elsewhere(n: int) -> int:
        return n

    async def play() -> None:
        for n in range(3):
            assert await (await waits.enqueue(n)).result(timeout=600) == n

    with caplog.at_level(logging.WARNING, logger="taskcore.client"):
        run(app, play)
    warned = [record.getMessage() for record in caplog.records if "waits in its slot" in record.getMessage()]
    assert len(warned) == 1
    assert "continue_with" in warned[0]
    assert "waits-in-slot" in warned[0]
