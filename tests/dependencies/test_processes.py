"""Dependencies of process tasks: opened in the process, those of scope "app" once for each."""

from __future__ import annotations

import os

import pytest

from taskcore import App, JobFailed, Retry
from tests.dependencies import tasks_in_processes as tasks

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name == "nt", reason="Windows has no process tasks")]


@pytest.fixture
def anyio_backend():
    """Run on one loop: the processes are the same."""
    return "asyncio"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Return a function that reads the log, without the ids of processes."""
    path = tmp_path / "log"
    monkeypatch.setenv("DEPENDENCIES_LOG", str(path))
    return lambda: [line.rpartition(" ")[0] for line in path.read_text().splitlines()]


@pytest.fixture
def app():
    """Make an app with the tasks."""
    app = App("memory://", processes=1, retry=Retry(attempts=1))
    app.include(tasks.router)
    return app


async def test_opened_in_the_process(app, log):
    """A process opens what it shares once, and what a job needs for each; the end of the worker closes it in order."""
    async with app.running():
        jobs = [await tasks.predict.enqueue(number) for number in (1, 2)]
        first, second = [await job.result(30.0) for job in jobs]
        assert first[:3] == ["1", "model", "pool/db"]
        assert [first[3], second[3]] == [job.id for job in jobs]
        assert first[4] == second[4] != str(os.getpid())
    job = ["+db", "+temp", "-temp", "-db"]
    assert log() == ["load", "+pool", *job, *job, "-pool"]


async def test_an_error_closes(app, log):
    """The function's error reaches its dependencies and its caller, and the process goes on."""
    async with app.running():
        with pytest.raises(JobFailed, match="ValueError: negative"):
            await (await tasks.predict.enqueue(-1)).result(30.0)
        assert (await (await tasks.predict.enqueue(3)).result(30.0))[0] == "3"
    assert log()[2:6] == ["+db", "+temp", "temp sees ValueError", "-temp"]
    assert log().count("load") == 1


async def test_a_killed_process_is_replaced(app, log):
    """After a time limit the next job runs in a new process, which opens what it shares anew."""
    async with app.running():
        before = await (await tasks.sleep.enqueue(0.0)).result(30.0)
        with pytest.raises(JobFailed, match="longer than its timeout"):
            await (await tasks.sleep.using(timeout=0.5).enqueue(60.0)).result(30.0)
        assert await (await tasks.sleep.enqueue(0.0)).result(30.0) != before
    assert log() == ["load", "load"]


async def test_an_override_is_refused(app, log):
    """A stand-in that could not reach the process is an error of the job, and the real dependency is not opened."""
    app.overrides[tasks.get_db] = tasks.load_model
    async with app.running():
        with pytest.raises(JobFailed, match=r"no override of this process holds"):
            await (await tasks.predict.enqueue(1)).result(30.0)
        app.overrides.clear()
        assert (await (await tasks.predict.enqueue(1)).result(30.0))[1] == "model"
