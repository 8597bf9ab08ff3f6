"""What a call returns decides: a coroutine that comes back is awaited, never dropped; no job succeeds unrun."""

from __future__ import annotations

import functools
from collections.abc import Awaitable

import anyio
import pytest

from taskcore import App, Dead, InvalidContract, Router, Succeeded
from tests.support import wrapped

pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app whose tasks are tried once."""
    app = App("memory://", retry=1, processes=1)
    app.include(wrapped.router)
    return app


@pytest.mark.filterwarnings("error")
async def test_every_form_runs_in_every_place(app, tmp_path, anyio_backend_name):
    """Behind decorators, partials, objects, in awaitables of any kind and depth: the work is done once, and awaited."""
    with anyio.fail_after(60):
        async with app.running(concurrency=8):
            jobs = {key: await task.enqueue(str(tmp_path / task.name)) for key, task in wrapped.TASKS.items()}
            await app.drain(timeout=50)
            for (form, place, kept), job in jobs.items():
                if kept:
                    assert await job.outcome(timeout=20) == Succeeded(job.id), (form, place)
    ran = {key: (tmp_path / task.name).read_text() for key, task in wrapped.TASKS.items()}
    assert ran == dict.fromkeys(wrapped.TASKS, "ran\n")


@pytest.mark.parametrize("task", [wrapped.generator, wrapped.async_generator, wrapped.process_generator], ids=str)
async def test_a_generator_that_comes_back_has_not_run(app, task):
    """A generator behind a decorator is a failure, also if no result is kept."""
    with anyio.fail_after(30):
        async with app.running():
            job = await task.enqueue("x")
            await app.drain(timeout=20)
            [letter] = [letter async for letter in app.dead_letters.read()]

    assert letter.job_id == job.id
    assert "of which nothing has run" in letter.trail.errors[0].message


async def test_errors_of_what_is_awaited_are_the_job_s():
    """An error after the first await ends the job as any other."""
    app = App("memory://", retry=1)

    async def fail() -> None:
        await anyio.sleep(0.001)
        raise ConnectionError("no")

    @app.task
    @wrapped.traced
    async def work() -> None:
        await fail()

    with anyio.fail_after(10):
        async with app.running():
            outcome = await (await work.enqueue()).outcome(timeout=5)
    assert isinstance(outcome, Dead)
    assert outcome.record is not None
    assert outcome.record.type == "ConnectionError"


def test_what_can_be_known_is_refused_when_declared():
    """A function that says it returns an awaitable runs in the loop; objects and partials are no functions."""
    router = Router()

    def promised() -> Awaitable[int]: ...

    with pytest.raises(InvalidContract, match="runs in the loop, not in a process"):
        router.task(name="promised", runs_in="process")(promised)
    assert router.task(name="loop")(promised).spec.runs_in == "loop"
    for each in (functools.partial(wrapped.write, "x"), wrapped.AsyncCall()):
        with pytest.raises(InvalidContract, match="cannot be a task"):
            router.task(name="object")(each)
