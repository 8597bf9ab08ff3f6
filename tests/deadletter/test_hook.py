"""``on_dead_letter``: called after a job was buried, and harms nothing."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, BuriedJob, InvalidSetting, Reject, Retry
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def app():
    """Make an app with a task that fails, or rejects, or succeeds."""
    app = App("memory://", clock=clock, retry=Retry(attempts=2, base=0.01))

    @app.task(name="work")
    async def work(how: str) -> None:
        if how == "fail":
            raise ValueError("no")
        if how == "reject":
            raise Reject("never")

    return app


async def run(app, *how):
    """Run jobs to their ends."""
    async with app.running():
        jobs = [await app.tasks["work"].enqueue(each) for each in how]
        for job in jobs:
            await job.outcome(30.0)
        await anyio.sleep(0.1)
    return jobs


async def test_it_gets_the_facts_of_each_buried_job(app):
    """Once for each dead job, none for others, and the letter can be read by then."""
    told = []
    letters = []

    @app.on_dead_letter
    def plain(job: BuriedJob) -> None:
        told.append(job)

    @app.on_dead_letter
    async def coroutine(job: BuriedJob) -> None:
        await anyio.sleep(0.01)
        letters.extend([letter.job_id async for letter in app.dead_letters.read() if letter.job_id == job.job_id])

    jobs = await run(app, "fail", "succeed", "reject")
    assert {(job.job_id, job.task, job.queue, job.reason, job.attempt) for job in told} == {
        (jobs[0].id, "work", "default", "exhausted", 2),
        (jobs[2].id, "work", "default", "rejected: never", 1),
    }
    assert {job.error and job.error.message for job in told} == {"no", "never"}
    assert sorted(letters) == sorted([jobs[0].id, jobs[2].id])


async def test_an_error_in_it_is_logged(app, caplog):
    """Neither a plain nor an async hook that fails disturbs the worker."""

    @app.on_dead_letter
    def plain(job: BuriedJob) -> None:
        raise RuntimeError("plain hook")

    @app.on_dead_letter
    async def coroutine(job: BuriedJob) -> None:
        raise RuntimeError("async hook")

    await run(app, "reject", "succeed")
    assert "plain hook" in caplog.text
    assert "async hook" in caplog.text


def test_what_is_no_function_is_refused(app):
    """The mistake is found where it is made."""
    with pytest.raises(InvalidSetting, match="is not a function"):
        app.on_dead_letter("alarm")
