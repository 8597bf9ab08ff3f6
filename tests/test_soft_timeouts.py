"""Soft time limits: the function learns that its time is over, and may clean up and return; else it fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import anyio
import pytest

from taskcore import App, InvalidContract, InvalidSetting, JobFailed, Retry, Router, SoftTimeout
from tests.support import in_processes

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app without retries."""
    return App("memory://", retry=Retry(attempts=1), processes=1)


async def result(app, task, *args):
    """Run a job; return its result."""
    async with app.running():
        return await (await task.enqueue(*args)).result(20.0)


@on_asyncio
async def test_an_async_function_may_return_in_spite_of_it(app):
    """SoftTimeout is raised at the await; the function catches it, awaits more, and its value is the result."""

    @app.task(soft_timeout=0.2, timeout=10.0)
    async def work() -> str:
        try:
            await anyio.sleep(10.0)
        except SoftTimeout:
            await anyio.sleep(0.01)
            return "partly"
        return "wholly"

    began = time.monotonic()
    assert await result(app, work) == "partly"
    assert time.monotonic() - began < 5.0


@on_asyncio
async def test_an_async_function_that_does_not_catch_it_fails(app):
    """An uncaught SoftTimeout is a TimeoutError of the attempt, which the policy retries."""
    attempts = []

    @app.task(soft_timeout=0.05, retry=Retry(attempts=2, base=0.01))
    async def work() -> None:
        attempts.append(1)
        try:
            await anyio.sleep(10.0)
        except Exception:
            pytest.fail("a broad except must not swallow it")

    with pytest.raises(JobFailed, match=r"TimeoutError: took longer than its soft timeout of 0\.05 s"):
        await result(app, work)
    assert len(attempts) == 2


@on_asyncio
async def test_a_function_in_time_is_not_disturbed(app):
    """A limit that is not reached leaves no trace, for this job and for the next ones."""

    @app.task(soft_timeout=0.3)
    async def work(seconds: float) -> int:
        await anyio.sleep(seconds)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    async with app.running():
        for _ in range(3):
            assert await (await work.enqueue(0.15)).result(10.0) == 0


@on_asyncio
@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
async def test_children_of_the_function_end_first(app, kind):
    """In a task group the children are cancelled, and SoftTimeout comes out of the group bare."""
    ended = []

    async def child() -> None:
        try:
            await anyio.sleep(10.0)
        finally:
            ended.append("child")

    @app.task(soft_timeout=0.2)
    async def work() -> list[str]:
        try:
            if kind == "asyncio":
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(child)
        except SoftTimeout:
            ended.append("function")
        return ended

    assert await result(app, work) == ["child", "function"]


@on_asyncio
async def test_the_hard_limit_comes_after_the_soft_one(app):
    """A function that catches SoftTimeout and goes on is ended by its hard limit."""
    seen = []

    @app.task(soft_timeout=0.1, timeout=0.4)
    async def work() -> None:
        try:
            await anyio.sleep(10.0)
        except SoftTimeout:
            seen.append("soft")
        await anyio.sleep(10.0)

    with pytest.raises(JobFailed, match=r"took longer than its timeout of 0\.4 s"):
        await result(app, work)
    assert seen == ["soft"]


@on_asyncio
async def test_a_timeout_inside_is_told_from_it(app):
    """``asyncio.timeout`` and ``anyio.fail_after`` inside of the function raise their own errors."""

    @app.task(soft_timeout=5.0)
    async def work() -> list[str]:
        seen = []
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(10.0)
        except TimeoutError:
            seen.append("asyncio")
        try:
            with anyio.fail_after(0.05):
                await anyio.sleep(10.0)
        except TimeoutError:
            seen.append("anyio")
        return seen

    assert await result(app, work) == ["asyncio", "anyio"]


@on_asyncio
async def test_a_function_in_a_thread(app):
    """In a thread it is raised between two lines of Python; the function may return, or fails."""

    @app.task(soft_timeout=0.2, timeout=10.0)
    def work(catch: bool) -> str:
        try:
            for _ in range(1000):
                time.sleep(0.01)
        except SoftTimeout:
            if catch:
                return "partly"
            raise
        return "wholly"

    async with app.running():
        assert await (await work.enqueue(True)).result(20.0) == "partly"
        with pytest.raises(JobFailed, match="soft timeout"):
            await (await work.enqueue(False)).result(20.0)
        assert await (await work.enqueue(True)).result(20.0) == "partly"


@on_asyncio
async def test_a_thread_is_not_hit_late(app):
    """A limit that is reached as the function returns hits neither the worker nor the next job of that thread."""

    @app.task(soft_timeout=0.01)
    def work() -> int:
        end = time.monotonic() + 0.0099
        while time.monotonic() < end:
            pass
        return 1

    @app.task
    def other() -> int:
        return sum(range(20_000))

    async with app.running():
        for _ in range(100):
            await (await work.enqueue()).outcome(20.0)
            assert await (await other.enqueue()).result(20.0) == 199990000


@on_asyncio
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process tasks")
async def test_a_function_in_a_process(app):
    """In a process a signal raises it; the process goes on with the next job."""
    app.include(in_processes.router)
    async with app.running():
        first = await (await in_processes.sleep_softly.enqueue(10.0, catch=True)).result(30.0)
        assert first[0] == "partly"
        with pytest.raises(JobFailed, match="soft timeout"):
            await (await in_processes.sleep_softly.enqueue(10.0, catch=False)).result(30.0)
        assert await (await in_processes.sleep_softly.enqueue(0.0, catch=False)).result(30.0) == ("wholly", first[1])


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_on_trio_an_async_function_is_refused(app):
    """Trio cancels in a way that no function can catch: the job says so before it has begun."""

    @app.task(soft_timeout=1.0)
    async def work() -> None: ...

    with pytest.raises(JobFailed, match="needs asyncio"):
        await result(app, work)


async def test_a_direct_call_has_no_limit():
    """A test that calls the function itself is not timed."""

    @Router().task(soft_timeout=0.01)
    async def work() -> int:
        await anyio.sleep(0.05)
        return 1

    assert await work() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"soft_timeout": 0},
        {"soft_timeout": "soon"},
        {"soft_timeout": 5.0, "timeout": 5.0},
        {"soft_timeout": 5.0, "runs_in": "loop"},
    ],
)
def test_an_impossible_limit_is_refused(options):
    """A limit has to be above 0, below the hard one, and where something can keep it."""
    with pytest.raises(InvalidContract, match="soft_timeout"):

        @Router().task(**options)
        def work() -> None: ...


# ── a limit of one call ──


@on_asyncio
@pytest.mark.parametrize("declared", [None, 20.0, 0.01], ids=["no limit", "a longer one", "a shorter one"])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_call_has_its_own_limit(app, declared, kind):
    """``using(soft_timeout=)`` counts instead of the task's limit, or without one; other calls have the task's."""

    def spend(seconds: float) -> str:
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.005)
        except SoftTimeout:
            return "partly"
        return "wholly"

    async def wait(seconds: float) -> str:
        try:
            await anyio.sleep(seconds)
        except SoftTimeout:
            return "partly"
        return "wholly"

    task = app.task(name="work", soft_timeout=declared, timeout=30.0)(wait if kind == "loop" else spend)
    async with app.running():
        assert await (await task.using(soft_timeout="200ms").enqueue(10.0)).result(20.0) == "partly"
        assert await (await task.using(soft_timeout=5).enqueue(0.1)).result(20.0) == "wholly"
        usual = "partly" if declared == 0.01 else "wholly"
        assert await (await task.enqueue(0.2)).result(20.0) == usual


@on_asyncio
async def test_the_limit_of_a_call_is_named(app):
    """The error of a function that does not catch it names the limit of the call."""

    @app.task(soft_timeout=9.0)
    async def work() -> None:
        await anyio.sleep(10.0)

    with pytest.raises(JobFailed, match=r"took longer than its soft timeout of 0\.1 s"):
        await result(app, work.using(soft_timeout=0.1))


@on_asyncio
async def test_the_limit_of_a_call_is_not_inherited(app):
    """A task that such a job calls directly has the limit of its own declaration."""

    @app.task(name="inner", soft_timeout=20.0)
    async def inner() -> str:
        await anyio.sleep(0.3)
        return "wholly"

    @app.task(name="outer", soft_timeout=20.0)
    async def outer() -> str:
        try:
            await anyio.sleep(10.0)
        except SoftTimeout:
            return await inner()
        return "never"

    assert await result(app, outer.using(soft_timeout=0.1)) == "wholly"


@on_asyncio
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process tasks")
async def test_a_call_in_a_process_has_its_own_limit(app):
    """The limit of a call reaches the process, too, and the next job there has its task's."""
    app.include(in_processes.router)
    async with app.running():
        softly = in_processes.sleep_softly
        assert await (await softly.using(soft_timeout=30).enqueue(1.0, catch=True)).result(30.0) == (
            await (await softly.using(soft_timeout=29).enqueue(0.01, catch=True)).result(30.0)
        )
        with pytest.raises(JobFailed, match=r"its soft timeout of 0\.1 s"):
            await (await softly.using(soft_timeout=0.1).enqueue(10.0, catch=False)).result(30.0)


def test_limits_that_a_call_cannot_have():
    """Nothing, more than the hard limit, or a plain function in the loop is refused at the call (TC104)."""
    router = Router()

    @router.task(name="plain", runs_in="loop")
    def plain() -> None: ...

    @router.task(name="work")
    async def work() -> None: ...

    with pytest.raises(InvalidSetting, match="cannot be interrupted"):
        plain.using(soft_timeout=1.0)
    with pytest.raises(InvalidSetting, match="soft_timeout=0"):
        work.using(soft_timeout=0)
    with pytest.raises(InvalidSetting, match="never be raised"):
        work.using(soft_timeout="1m", timeout=60)


TRACED = """
import sys, time
from taskcore.soft_timeouts import SoftTimeout, _ThreadLimit, _within

def in_time():
    return 1

def too_late():
    try:
        while True:
            time.sleep(0.001)
    except SoftTimeout:
        return 2

assert _within(_ThreadLimit(10.0), in_time, 10.0) == 1
assert sys.argv[1] == "in time" or _within(_ThreadLimit(0.05), too_late, 0.05) == 2
time.sleep(0.1)
sys.settrace(lambda frame, event, arg: None)
in_time()
sys.settrace(None)
print("traced")
"""


@pytest.mark.parametrize("ended", ["in time", "too late"])
def test_a_limit_of_a_thread_leaves_nothing_in_the_interpreter(ended: str) -> None:
    """Traced code runs behind a limit: a note of an exception that was withdrawn made it hang."""
    ran = subprocess.run([sys.executable, "-c", TRACED, ended], capture_output=True, text=True, timeout=15, check=False)
    assert (ran.stdout, ran.stderr) == ("traced\n", "")
