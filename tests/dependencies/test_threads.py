"""Dependencies of plain functions: plain ones in their thread, async ones in the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from taskcore import App, Depends, JobFailed, Retry, current

pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app without retries."""
    return App("memory://", retry=Retry(attempts=1))


async def test_where_each_is_opened(app):
    """A plain dependency is opened and closed in the thread of the function, an async one in the event loop."""
    threads = {}

    async def pool() -> AsyncIterator[str]:
        threads["pool"] = threading.get_ident()
        yield "pool"
        log.append("-pool")

    async def db(pool: str = Depends(pool, scope="app")) -> AsyncIterator[str]:
        threads["db"] = threading.get_ident()
        yield f"{pool}/{current().job_id}"
        log.append("-db")

    def connection(db: str = Depends(db)) -> Iterator[str]:
        threads["connection"] = threading.get_ident()
        yield db
        threads["closed"] = threading.get_ident()
        log.append("-connection")

    log = []

    @app.task
    def work(connection: str = Depends(connection)) -> str:
        threads["work"] = threading.get_ident()
        return connection

    async with app.running():
        job = await work.enqueue()
        assert await job.result(10.0) == f"pool/{job.id}"
    loop = threading.get_ident()
    assert threads["pool"] == threads["db"] == loop
    assert threads["connection"] == threads["closed"] == threads["work"] != loop
    assert log == ["-connection", "-db", "-pool"]


async def test_what_is_shared_is_shared_with_the_loop(app):
    """A plain and an async function get the same object of scope "app"; a plain one is made outside of the loop."""
    threads = []

    def make() -> Iterator[list[int]]:
        threads.append(threading.get_ident())
        yield []

    @app.task
    def plain(shared: list[int] = Depends(make, scope="app")) -> int:
        return id(shared)

    @app.task
    async def coroutine(shared: list[int] = Depends(make, scope="app")) -> int:
        return id(shared)

    async with app.running():
        ids = {await (await task.enqueue()).result(10.0) for task in (plain, coroutine, plain)}
    assert len(ids) == 1
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_an_error_is_seen_by_both_kinds(app):
    """The function's error is raised at the yield of plain and of async dependencies, and hidden by none."""
    log = []

    async def db() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError as error:
            log.append(f"db {error}")

    def file(db: int = Depends(db)) -> Iterator[int]:
        try:
            yield db
        except ValueError as error:
            log.append(f"file {error}")

    @app.task
    def work(file: int = Depends(file)) -> None:
        raise ValueError("no")

    async with app.running():
        with pytest.raises(JobFailed, match="ValueError: no"):
            await (await work.enqueue()).result(10.0)
    assert log == ["file no", "db no"]


async def test_a_failing_dependency_fails_the_job(app):
    """An async dependency that cannot be opened fails the job of a plain function, and the worker lives."""
    failures = iter([True, False])

    async def db() -> str:
        if next(failures):
            raise ConnectionError("no database")
        return "db"

    @app.task
    def work(db: str = Depends(db)) -> str:
        return db

    async with app.running():
        with pytest.raises(JobFailed, match="no database"):
            await (await work.enqueue()).result(10.0)
        assert await (await work.enqueue()).result(10.0) == "db"


async def test_a_function_that_is_left_alone_keeps_what_it_uses(app):
    """A thread that overruns its time keeps its dependencies until it returns; then they are closed."""
    log = []
    closed = anyio.Event()

    async def db() -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.append("-db")
            closed.set()

    @app.task(timeout=0.2)
    def work(db: None = Depends(db)) -> None:
        time.sleep(0.8)
        log.append("returns")

    async with app.running():
        with pytest.raises(JobFailed, match="longer than its timeout"):
            await (await work.enqueue()).result(10.0)
        assert log == []
        with anyio.fail_after(10.0):
            await closed.wait()
    assert log == ["returns", "-db"]


async def test_the_end_of_the_worker_closes_what_a_thread_kept(app):
    """A function that never returns cannot keep its dependencies open beyond its worker."""
    log = []
    go_on = threading.Event()

    async def db() -> AsyncIterator[None]:
        yield
        log.append("-db")

    @app.task(timeout=0.2)
    def work(db: None = Depends(db)) -> None:
        go_on.wait(30.0)

    async with app.running(grace=0.1):
        with pytest.raises(JobFailed, match="longer than its timeout"):
            await (await work.enqueue()).result(10.0)
    go_on.set()
    assert log == ["-db"]


async def test_a_result_that_outlives_its_dependencies_is_refused(app):
    """A plain function in a thread that returns a coroutine fails its job: it would find everything closed."""

    async def later() -> int:
        return 1

    @app.task
    def work(name: str = Depends(str)):
        return later()

    async with app.running():
        with pytest.raises(JobFailed, match="would outlive its dependencies"):
            await (await work.enqueue()).result(10.0)
