"""Programs without an event loop: the blocking forms, and the mistakes that would block an event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

import taskcore
from taskcore import (
    App,
    InvalidArguments,
    InvalidSetting,
    JobFailed,
    LetterNotFound,
    NotRunning,
    ResultTimeout,
    Retry,
    WrongTask,
)
from taskcore.schedules import ScheduleNotFound


@pytest.fixture
def app():
    """Make an app with tasks of both kinds."""
    app = App("memory://", retry=Retry(attempts=1))

    @app.task(name="greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    @app.task(name="fail")
    async def fail() -> None:
        raise ValueError("no")

    return app


def test_blocking_forms(app):
    """Sending, waiting, asking and cancelling without an event loop."""
    greet = app.tasks["greet"]
    waiting = greet.sync.enqueue("Ada")
    with pytest.raises(ResultTimeout):
        waiting.result(timeout=0.01)
    assert waiting.status() == "queued"
    assert waiting.cancel()
    with app.sync.running():
        job = greet.sync.enqueue("Ada")

        assert job.result(timeout=5) == "hello Ada"
        assert job.outcome(timeout=5).value == "hello Ada"
        assert job.status() == "succeeded"
        assert greet.using(headers={"a": "b"}).sync.enqueue("Bob").result(timeout=5) == "hello Bob"
        jobs = app.sync.enqueue_many([greet.call("Cyd"), greet.call("Dee")])
        assert [each.result(timeout=5) for each in jobs] == ["hello Cyd", "hello Dee"]


def test_a_handle_from_an_id(app):
    """A job that was sent elsewhere is asked for by its id, with its task or without, in the queue it was sent to."""
    greet = app.tasks["greet"]
    waiting = greet.using(queue="mail").sync.enqueue("Ada")
    assert app.sync.job(waiting.id).status() == "queued"
    assert greet.sync.job(waiting.id, queue="mail").status() == "queued"
    assert greet.using(queue="mail").sync.job(waiting.id).status() == "queued"
    assert greet.sync.job(waiting.id).status() == "unknown"
    with app.sync.running():
        job = greet.sync.enqueue("Bob")
        assert greet.sync.job(job.id).result(timeout=5) == "hello Bob"
        assert app.sync.job(job.id).outcome(timeout=5).value == "hello Bob"
        with pytest.raises(InvalidSetting):
            greet.sync.job("")
        with pytest.raises(WrongTask):
            app.tasks["fail"].sync.job(job.id).status()


def test_blocking_verbs_of_an_app(app):
    """An app's verbs have blocking forms, which open the app by themselves."""
    greet = app.tasks["greet"]
    assert app.sync.send(greet.call("Ada")).status() == "queued"
    assert app.sync.stats().ready == 1
    with pytest.raises(TimeoutError, match='queue "default" is not empty'):
        app.sync.drain(timeout=0.01)
    assert app.sync.purge("default") == 1
    with app.sync.running(queues=["default"], concurrency=1, grace=1.0) as running:
        assert running is app
        app.sync.send(greet.call("Bob"))
        app.sync.drain(timeout=5)
    assert app.sync.stats("default").ready == 0


def test_blocking_dead_letters(app):
    """Dead letters are counted, read, replayed and dropped without an event loop."""
    with app.sync.running():
        first = app.tasks["fail"].sync.enqueue()
        app.tasks["fail"].sync.enqueue()
        app.sync.drain(timeout=5)
    letters = app.sync.dead_letters
    assert letters.count() == 2
    assert {letter.task for letter in letters.read(task="fail")} == {"fail"}
    assert list(letters.read(task="greet")) == []
    one, other = letters.read()
    assert letters.get(one.id).job_id == first.id
    assert letters.replay(one.id) != first.id
    letters.drop(other.id)
    assert letters.count() == 0
    with pytest.raises(LetterNotFound):
        letters.get(one.id)


def test_blocking_schedules(app):
    """Schedules are put, read, previewed, paused, fired, backfilled and removed without an event loop."""
    greet = app.tasks["greet"]
    daily = app.sync.schedules.put("daily", greet.call("Ada"), cron="0 8 * * *")
    assert (daily.id, daily.explain(), daily.is_stored) == ("daily", "At 08:00 every day, UTC", True)
    assert [one.hour for one in daily.preview(3)] == [8, 8, 8]
    daily.pause("invoice open")
    assert (daily.is_paused, daily.record.note) == (True, "invoice open")
    daily.resume(catch_up=True)
    assert not app.sync.schedules.get("daily").is_paused
    assert app.sync.schedules.pause("daily").is_paused
    assert not app.sync.schedules.resume("daily").is_paused
    day, night = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    with app.sync.running():
        jobs = [daily.fire(), app.sync.schedules.fire("daily"), *daily.backfill(day, night, label="a")]
        jobs += app.sync.schedules.backfill("daily", day, night, label="b")
        assert [job.result(5) for job in jobs] == ["hello Ada"] * 6
    app.sync.schedules.put("other", greet.call("Bob"), every=10)
    assert [one.id for one in app.sync.schedules.all()] == ["daily", "other"]
    assert daily.remove()
    assert not app.sync.schedules.remove("daily")
    with pytest.raises(ScheduleNotFound):
        app.sync.schedules.get("daily")


def test_errors_come_through(app):
    """What goes wrong is raised where one waits."""
    with app.sync.running(), pytest.raises(JobFailed, match="exhausted"):
        app.tasks["fail"].sync.enqueue().result(timeout=5)
    with pytest.raises(InvalidArguments):
        app.tasks["greet"].sync.enqueue(7)


def test_errors_inside_of_running(app):
    """What the program raises inside of app.sync.running() comes out as it is, and the worker stops."""
    with pytest.raises(ZeroDivisionError), app.sync.running():
        raise ZeroDivisionError

    job = app.tasks["greet"].sync.enqueue("Ada")
    with pytest.raises(ResultTimeout):
        job.result(timeout=0.02)


def test_from_many_threads(app):
    """Any thread may send; all share one connection."""
    greet = app.tasks["greet"]
    with app.sync.running(), ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: greet.sync.enqueue(f"{number}").result(timeout=5), range(50)))

    assert results == [f"hello {number}" for number in range(50)]
    assert sum(thread.name == "taskcore" for thread in threading.enumerate()) >= 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_blocking_an_event_loop_is_refused(app, backend):
    """A blocking call where it would block a loop is an error at once, with the form to use instead."""
    greet = app.tasks["greet"]
    job = greet.sync.enqueue("Ada")

    async def main() -> None:
        for blocking in (lambda: greet.sync.enqueue("Ada"), job.status, app.sync.running().__enter__):
            with pytest.raises(NotRunning, match="event loop") as caught:
                blocking()
            assert "await" in caught.value.fix or "async with" in caught.value.fix

    anyio.run(main, backend=backend)


@pytest.mark.anyio
async def test_from_a_task_in_a_thread():
    """A plain function that runs as a job may send others, blocking its own thread only."""
    app = App("memory://")

    @app.task
    async def inner(number: int) -> int:
        return number + 1

    @app.task
    def outer(number: int) -> int:
        return inner.sync.enqueue(number).result(timeout=5)

    async with app.running():
        assert await (await outer.enqueue(1)).result(timeout=5) == 2


SCRIPT = """
import os, sys
from taskcore import App

app = App("memory://")

@app.task
async def greet(name: str) -> str:
    return f"hello {name}"

with app.sync.running():
    print(greet.sync.enqueue("Ada").result(timeout=5), flush=True)

if sys.argv[1:] == ["fork"]:
    child = os.fork()
    if child == 0:
        with app.sync.running():
            print(greet.sync.enqueue("child").result(timeout=5), flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
    with app.sync.running():
        print(greet.sync.enqueue("parent").result(timeout=5), flush=True)
"""


def run_script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a program of its own."""
    path.write_text(SCRIPT)
    where = str(Path(taskcore.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), *arguments],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_from_a_thread_with_the_context_of_a_task(app):
    """asyncio.to_thread hands the context of a task to its thread, which has no event loop all the same."""
    greet = app.tasks["greet"]

    async def main() -> str:
        async with app.running():
            job = await asyncio.to_thread(greet.sync.enqueue, "Ada")
            return await asyncio.to_thread(job.result, 5)

    assert anyio.run(main) == "hello Ada"


def test_a_plain_script(tmp_path):
    """Ten lines, no event loop; the program ends by itself."""
    ran = run_script(tmp_path / "script.py")

    assert (ran.stdout, ran.stderr, ran.returncode) == ("hello Ada\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork(tmp_path):
    """A forked child, as of a web server, has a loop and connections of its own; its parent goes on."""
    ran = run_script(tmp_path / "script.py", "fork")

    assert ran.stdout.splitlines() == ["hello Ada", "hello child", "0", "hello parent"]
    assert ran.stderr == ""
