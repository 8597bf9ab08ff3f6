"""Dependencies of functions in the event loop: opened in order, closed in reverse, whatever happens in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from taskcore import App, Depends, JobFailed, Retry, current
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class Parts:
    """Dependencies that record when they are opened and closed, and an app."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.app = App("memory://", clock=clock, retry=Retry(attempts=1))

    def generator(self, name: str, **needs):
        """Make an async generator."""

        async def get(**given) -> AsyncIterator[str]:
            self.log.append(f"+{name}")
            try:
                yield name
            except BaseException as error:
                self.log.append(f"{name} sees {type(error).__name__}")
                raise
            finally:
                await anyio.sleep(0.01)  # closing has to wait, too
                self.log.append(f"-{name}")

        get.__name__ = name
        return given(get, needs)


def given(function, needs):
    """Give a function parameters with these defaults."""
    import inspect  # noqa: PLC0415 - for the signature only

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, default=default) for name, default in needs.items()]
    function.__signature__ = inspect.Signature(parameters)
    return function


@pytest.fixture
def parts():
    """Make the parts."""
    return Parts()


async def run(app, task, *args):
    """Run one job; return its outcome's result."""
    async with app.running():
        return await (await task.enqueue(*args)).result(30.0)


async def test_opened_in_order_and_closed_in_reverse(parts):
    """What a dependency needs is opened before it and closed after it, once for all that need it."""
    pool = parts.generator("pool")
    db = parts.generator("db", pool=Depends(pool))
    cache = parts.generator("cache", pool=Depends(pool))

    @parts.app.task
    async def work(number: int, db: str = Depends(db), cache: str = Depends(cache)) -> str:
        parts.log.append("work")
        return f"{number} {db} {cache}"

    assert await run(parts.app, work, 7) == "7 db cache"
    assert parts.log == ["+pool", "+db", "+cache", "work", "-cache", "-db", "-pool"]


async def test_each_kind_of_function(parts):
    """Plain and async functions and generators give their value to an async function."""

    def plain() -> int:
        return 1

    async def coroutine() -> int:
        return 2

    def generator() -> Iterator[int]:
        yield 3
        parts.log.append("closed")

    @parts.app.task
    async def work(a: int = Depends(plain), b: int = Depends(coroutine), c: int = Depends(generator)) -> list[int]:
        return [a, b, c]

    assert await run(parts.app, work) == [1, 2, 3]
    assert parts.log == ["closed"]


async def test_an_app_scope_is_opened_once(parts):
    """What the worker shares is opened with the first job that needs it and closed when the worker ends."""
    pool = parts.generator("pool")
    db = parts.generator("db", pool=Depends(pool, scope="app"))

    @parts.app.task
    async def work(db: str = Depends(db)) -> None: ...

    async with parts.app.running():
        assert parts.log == []
        jobs = [await work.enqueue() for _ in range(3)]
        for job in jobs:
            await job.result(30.0)
        assert parts.log.count("+pool") == 1
        assert "-pool" not in parts.log
    assert parts.log[-1] == "-pool"
    assert parts.log.count("-pool") == 1
    assert parts.log.count("+db") == parts.log.count("-db") == 3


async def test_an_error_is_seen_and_not_hidden(parts):
    """The function's error is raised in its dependencies, and one that swallows it does not make a success of it."""
    db = parts.generator("db")

    async def forgiving() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError:
            parts.log.append("forgiven")

    @parts.app.task
    async def work(db: str = Depends(db), one: int = Depends(forgiving)) -> None:
        raise ValueError("no")

    with pytest.raises(JobFailed, match="ValueError: no"):
        await run(parts.app, work)
    assert parts.log == ["+db", "forgiven", "db sees ValueError", "-db"]


async def test_a_failing_dependency_fails_its_job(parts):
    """The job fails by its policy, what was open before is closed, and the worker goes on."""
    db = parts.generator("db")
    failures = iter([True, True, False, False])

    async def flaky(db: str = Depends(db)) -> str:
        if next(failures):
            raise ConnectionError("no database")
        return db

    @parts.app.task(retry=Retry(attempts=2, base=0.01))
    async def work(flaky: str = Depends(flaky)) -> str:
        return flaky

    async with parts.app.running():
        with pytest.raises(JobFailed, match="no database") as failed:
            await (await work.enqueue()).result(30.0)
        assert failed.value.reason == "exhausted"
        assert parts.log == ["+db", "db sees ConnectionError", "-db"] * 2
        assert await (await work.enqueue()).result(30.0) == "db"


async def test_a_failing_app_scope_is_tried_again(parts):
    """A dependency of the worker that cannot be opened fails the jobs that need it; the next one opens it."""
    failures = iter([True, False])

    async def pool() -> AsyncIterator[str]:
        if next(failures):
            raise ConnectionError("no pool")
        yield "pool"

    @parts.app.task
    async def work(pool: str = Depends(pool, scope="app")) -> str:
        return pool

    async with parts.app.running():
        with pytest.raises(JobFailed, match="no pool"):
            await (await work.enqueue()).result(30.0)
        assert await (await work.enqueue()).result(30.0) == "pool"
        assert await (await work.enqueue()).result(30.0) == "pool"


async def test_an_error_while_closing_fails_the_job(parts):
    """A transaction that cannot be committed at the end is no success."""

    async def transaction() -> AsyncIterator[None]:
        yield
        raise ConnectionError("commit failed")

    @parts.app.task
    async def work(tx: None = Depends(transaction)) -> str:
        return "done"

    with pytest.raises(JobFailed, match="commit failed"):
        await run(parts.app, work)


async def test_a_time_limit_closes(parts):
    """A job that overruns its time is closed in order, and the closing may wait."""
    db = parts.generator("db", pool=Depends(parts.generator("pool")))

    @parts.app.task(timeout=1.0)
    async def work(db: str = Depends(db)) -> None:
        await anyio.sleep(60.0)

    with pytest.raises(JobFailed, match="longer than its timeout"):
        await run(parts.app, work)
    seen = "Cancelled" if parts.log[2].endswith("Cancelled") else "CancelledError"
    assert parts.log == ["+pool", "+db", f"db sees {seen}", "-db", f"pool sees {seen}", "-pool"]


async def test_a_time_limit_while_closing_closes_the_rest(parts):
    """A limit that is over while one dependency closes interrupts that one; the others close in peace."""
    pool = parts.generator("pool")

    async def slow(pool: str = Depends(pool)) -> AsyncIterator[str]:
        yield pool
        await anyio.sleep(60.0)

    @parts.app.task(timeout=1.0)
    async def work(slow: str = Depends(slow)) -> None: ...

    with pytest.raises(JobFailed, match="longer than its timeout"):
        await run(parts.app, work)
    assert parts.log[0] == "+pool"
    assert parts.log[-1] == "-pool"


async def test_closing_without_end_is_cut_off(parts):
    """A dependency that never closes after an error holds its slot for ten seconds, not for ever."""

    async def stuck() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep_forever()

    @parts.app.task
    async def work(stuck: None = Depends(stuck)) -> None:
        raise ValueError("no")

    began = anyio.current_time()
    with pytest.raises(JobFailed, match="ValueError: no"):
        await run(parts.app, work)
    assert 9.0 < anyio.current_time() - began < 15.0


async def test_a_shutdown_closes(parts):
    """A job that is interrupted by the end of its worker closes what it has, before the worker's own is closed."""
    db = parts.generator("db", pool=Depends(parts.generator("pool"), scope="app"))
    begun = anyio.Event()

    @parts.app.task
    async def work(db: str = Depends(db)) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with parts.app.running(grace=0.1):
        await work.enqueue()
        await begun.wait()
    assert [line for line in parts.log if line[0] in "+-"] == ["+pool", "+db", "-db", "-pool"]


async def test_a_job_opens_for_itself(parts):
    """A dependency knows the job it is opened for; one of the worker knows none."""

    async def who() -> str:
        return current().job_id

    async def of_the_worker() -> str:
        try:
            return current().job_id
        except RuntimeError:
            return "no job"

    @parts.app.task
    async def work(who: str = Depends(who), shared: str = Depends(of_the_worker, scope="app")) -> list[str]:
        return [who, shared]

    async with parts.app.running():
        job = await work.enqueue()
        assert await job.result(30.0) == [job.id, "no job"]


async def test_a_slow_opening_outlives_the_job_that_began_it(parts):
    """A model that takes longer to load than one job may is loaded once, and not begun anew by each job."""

    async def model() -> str:
        parts.log.append("load")
        await anyio.sleep(5.0)
        return "model"

    @parts.app.task(timeout=2.0, retry=Retry(attempts=5, base=0.01, jitter="none"))
    async def work(model: str = Depends(model, scope="app")) -> str:
        return model

    assert await run(parts.app, work) == "model"
    assert parts.log == ["load"]


async def test_overrides(parts):
    """A test puts its own function in place of a dependency, wherever that is needed."""
    pool = parts.generator("pool")
    db = parts.generator("db", pool=Depends(pool))

    @parts.app.task
    async def work(db: str = Depends(db)) -> str:
        return db

    async def fake() -> AsyncIterator[str]:
        parts.log.append("fake")
        yield "fake"

    async with parts.app.running():
        parts.app.overrides[pool] = fake
        assert await (await work.enqueue()).result(30.0) == "db"
        assert parts.log == ["fake", "+db", "-db"]
        parts.app.overrides[db] = fake
        assert await (await work.enqueue()).result(30.0) == "fake"
        parts.app.overrides.clear()
        parts.log.clear()
        assert await (await work.enqueue()).result(30.0) == "db"
        assert parts.log[0] == "+pool"


async def test_an_override_that_closes_a_circle_fails_the_job(parts):
    """A stand-in that needs what it stands in for is an error of the job, which says so."""
    db = parts.generator("db")

    async def fake(real: str = Depends(db)) -> str:
        return real

    @parts.app.task
    async def work(db: str = Depends(db)) -> str:
        return db

    parts.app.overrides[db] = fake
    with pytest.raises(JobFailed, match="needs itself: fake → fake"):
        await run(parts.app, work)


async def test_a_task_calls_another_task_directly(parts):
    """A direct call inside of a job gets its own dependencies, from the same worker."""
    db = parts.generator("db")

    @parts.app.task
    async def inner(number: int, db: str = Depends(db)) -> str:
        return f"{number} {db}"

    @parts.app.task
    async def outer(db: str = Depends(db)) -> str:
        return await inner(7)

    assert await run(parts.app, outer) == "7 db"
    assert parts.log == ["+db", "+db", "-db", "-db"]


async def test_a_plain_function_in_the_loop(parts):
    """A plain function with runs_in="loop" gets async dependencies, too."""
    db = parts.generator("db")

    @parts.app.task(runs_in="loop")
    def work(db: str = Depends(db)) -> str:
        return db

    assert await run(parts.app, work) == "db"
    assert parts.log == ["+db", "-db"]


async def test_a_task_group_may_be_open_in_a_dependency(parts):
    """A dependency that runs tasks beside the job may do so in a task group, and is closed after a time limit, too."""
    parts.log = []

    async def group() -> AsyncIterator[object]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield group
            parts.log.append("ends")
            group.cancel_scope.cancel()

    @parts.app.task(timeout=1.0)
    async def work(seconds: float, group: object = Depends(group), shared: object = Depends(group, scope="app")) -> str:
        await anyio.sleep(seconds)
        return "done"

    async with parts.app.running():
        assert await (await work.enqueue(0.1)).result(30.0) == "done"
        with pytest.raises(JobFailed, match="longer than its timeout"):
            await (await work.enqueue(10.0)).result(30.0)
        assert await (await work.enqueue(0.1)).result(30.0) == "done"
    assert parts.log == ["ends"] * 3
