"""What a job leaves behind reaches neither another job nor the worker; the worker closes it, or tells the job's id."""

from __future__ import annotations

import asyncio
import decimal
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest

from taskcore import App, Dead, Retry, current

pytestmark = pytest.mark.anyio
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])

tenant: ContextVar[str] = ContextVar("tenant", default="none")


@dataclass
class Visit:
    """An argument whose class sets a context variable."""

    name: str

    def __post_init__(self) -> None:
        tenant.set(self.name)


@pytest.fixture
def app():
    """Make an app with one slot: each job comes after the other."""
    return App("memory://", concurrency=1, retry=Retry(attempts=1))


@pytest.mark.parametrize("runs_in", ["loop", "thread"])
async def test_context_variables(app: App, runs_in: str):
    """A context variable that a job sets is not seen by the next job in its slot."""
    if runs_in == "loop":

        @app.task
        async def visit(name: str) -> str:
            found = tenant.get()
            tenant.set(name)
            return found
    else:

        @app.task
        def visit(name: str) -> str:
            found = tenant.get()
            tenant.set(name)
            return found

    async with app.running():
        found = [await (await visit.enqueue(name)).result(timeout=5) for name in "abc"]

    assert found == ["none"] * 3


async def test_decimal_context_in_a_thread(app: App):
    """The precision that a plain function sets is not that of the next one, although the program has used decimals."""
    before = str(decimal.Decimal(1) / 3)

    @app.task
    def divide(precision: int | None = None) -> str:
        if precision is not None:
            decimal.getcontext().prec = precision
        return str(decimal.Decimal(1) / 3)

    async with app.running():
        found = [await (await divide.enqueue(precision)).result(timeout=5) for precision in (None, 3, None)]

    assert found == [before, "0.333", before]


@pytest.mark.parametrize("by_parameter", [False, True], ids=["by hand", "by its arguments"])
@pytest.mark.parametrize("chosen", [None, 12], ids=["unused", "chosen"])
async def test_decimal_context_in_the_loop(app: App, chosen: int | None, by_parameter: bool):
    """What a job does to the decimal context in place is not seen by the next one, which has what the program chose."""
    decimal.setcontext(decimal.Context(prec=chosen or decimal.DefaultContext.prec))
    before = str(+decimal.Context(prec=chosen or decimal.DefaultContext.prec).divide(decimal.Decimal(1), 3))

    async def divide(precision: int | None = None, one: decimal.Decimal | None = None) -> str:
        await anyio.lowlevel.checkpoint()
        if precision is not None:
            decimal.getcontext().prec = precision
        return str((one or decimal.Decimal(1)) / 3)

    task, one = app.task(divide), decimal.Decimal("1.0") if by_parameter else None
    async with app.running():
        found = [await (await task.enqueue(precision, one)).result(timeout=5) for precision in (None, 3, None)]

    assert found == [before, "0.333", before]
    assert decimal.getcontext().prec == (chosen or decimal.DefaultContext.prec)


async def test_context_variables_set_by_arguments(app: App):
    """What the class of an argument sets while it is decoded reaches neither this job nor the next one."""

    @app.task
    async def visit(it: Visit) -> str:
        return tenant.get()

    sent = [Visit(name) for name in "ab"]
    tenant.set("none")
    async with app.running():
        assert [await (await visit.enqueue(it)).result(timeout=5) for it in sent] == ["none", "none"]
    assert tenant.get() == "none"


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_generators_dropped_with_a_time_limit(app: App, seconds: float):
    """A generator that is dropped inside of its time limit is closed in the job's task, and the limit with it."""
    closed = []

    async def rows() -> AsyncIterator[int]:
        with anyio.fail_after(0.05):
            async with anyio.create_task_group():
                try:
                    yield 1
                    yield 2
                finally:
                    closed.append(current().job_id)

    @app.task
    async def read_one() -> int:
        await anyio.sleep(seconds)
        async for row in rows():  # noqa: B007
            break
        return row

    @app.task
    async def work() -> str:
        await anyio.sleep(0.1)
        return "done"

    async with app.running():
        jobs = [await read_one.enqueue() for _ in range(3)]
        assert [await job.result(timeout=5) for job in jobs] == [1, 1, 1]
        assert await (await work.enqueue()).result(timeout=5) == "done"
    assert closed == [job.id for job in jobs]


async def test_generator_that_cannot_be_closed(app: App, caplog: pytest.LogCaptureFixture):
    """An error at the closing of a dropped generator is logged with the job's id; the job has succeeded."""

    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ConnectionError("the cursor is gone")

    @app.task
    async def read_one() -> str:
        async for _ in rows():
            break
        return "read"

    async with app.running():
        job = await read_one.enqueue()
        assert await job.result(timeout=5) == "read"
    assert any(job.id in record.message and "open" in record.message for record in caplog.records)


async def test_scope_left_open(app: App):
    """A cancel scope that a job enters and never leaves cancels no later job, and the worker stops as always."""

    @app.task
    async def leave_open() -> None:
        anyio.move_on_after(0.05).__enter__()

    @app.task
    async def work() -> str:
        await anyio.sleep(0.15)
        return "done"

    async with app.running():
        for _ in range(3):
            await (await leave_open.enqueue()).outcome(timeout=5)
        assert await (await work.enqueue()).result(timeout=5) == "done"
        running = await work.enqueue()
        while (await running.status()) != "running":  # noqa: ASYNC110 - what the broker says
            await anyio.sleep(0.005)
    async with app:
        assert (await running.status()) == "succeeded"


@ASYNCIO
async def test_late_cancellation(app: App):
    """A time limit that a job set by itself and forgot reaches no later job."""

    @app.task
    async def limited() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.02, task.cancel)
        return "quick"

    @app.task
    async def work() -> str:
        await asyncio.sleep(0.1)
        return "done"

    async with app.running():
        for _ in range(5):
            assert await (await limited.enqueue()).result(timeout=5) == "quick"
        assert await (await work.enqueue()).result(timeout=5) == "done"


@ASYNCIO
async def test_cancels_itself_at_its_end(app: App):
    """A job that cancels its own task as its last act has succeeded; one that waits then has failed by itself."""

    @app.task
    async def at_the_end() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    @app.task
    async def before_a_wait() -> None:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    async with app.running():
        assert await (await at_the_end.enqueue()).result(timeout=5) == "done"
        outcome = await (await before_a_wait.enqueue()).outcome(timeout=5)
        assert "CancelledError" in str(outcome)
        assert await (await at_the_end.enqueue()).result(timeout=5) == "done"


@ASYNCIO
async def test_every_task_of_the_worker_cancelled(app: App, caplog: pytest.LogCaptureFixture):
    """A slot that foreign code cancels goes on, and says so; no job is lost by it."""

    @app.task
    async def work() -> str:
        await asyncio.sleep(0.01)
        return "done"

    async with app.running():
        assert await (await work.enqueue()).result(timeout=5) == "done"
        slots = [task for task in asyncio.all_tasks() if "Slots._run" in task.get_name()]
        assert slots
        for slot in slots:
            slot.cancel()
        assert await (await work.enqueue()).result(timeout=5) == "done"
        assert app.counters["slot.cancelled"] == len(slots)
    assert any("cancelled a task of the worker" in record.message for record in caplog.records)


@ASYNCIO
@pytest.mark.parametrize("why", ["shutdown", "timeout"])
@pytest.mark.parametrize("kind", ["other error", "from the cancellation", "group"])
async def test_interrupted_whatever_the_clean_up_raises(why: str, kind: str):
    """A job that the worker interrupts was interrupted, whatever its clean-up raises; a stop uses no attempt (C21)."""
    app = App("memory://", concurrency=1, retry=Retry(attempts=1))
    started = anyio.Event()

    @app.task(timeout=0.05 if why == "timeout" else None)
    async def work() -> None:
        started.set()
        try:
            await anyio.sleep(30)
        except asyncio.CancelledError as error:
            if kind == "group":
                raise ExceptionGroup("cleaning up", [ConnectionError("closed"), KeyError("x")]) from error
            raise ConnectionError("rollback: connection is closed") from (error if kind != "other error" else None)

    async with app:
        job = await work.enqueue()
        async with app.running(grace=0.01):
            await started.wait()
            if why == "timeout":
                outcome = await job.outcome(timeout=5)
                assert "TimeoutError" in str(outcome)
        if why == "shutdown":
            assert (await job.status()) == "queued"
            assert (await app.stats()).dead == 0


async def test_shielded_part_of_a_job(app: App):
    """A part that a job shields from cancellation runs to its end, also when the job's time is over."""
    reached = []

    @app.task(timeout=0.05)
    async def commit() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
            reached.append("committed")
        await anyio.sleep(30)
        reached.append("never")

    async with app.running():
        outcome = await (await commit.enqueue()).outcome(timeout=5)
    assert "TimeoutError" in str(outcome)
    assert reached == ["committed"]


@ASYNCIO
async def test_signal_handlers(app: App, caplog: pytest.LogCaptureFixture):
    """A worker whose signal handlers a job has replaced says so, installs them again, and stops at the signal."""
    caplog.set_level(logging.INFO)

    @app.task
    async def replace() -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)

    async with app, anyio.create_task_group() as group:
        await group.start(app.run_worker)
        job = await replace.enqueue()
        await job.result(timeout=5)
        while not any("replaced" in record.message for record in caplog.records):  # noqa: ASYNC110 - a log line
            await anyio.sleep(0.05)
        await anyio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
    assert any("SIGTERM: stopping" in record.message for record in caplog.records)


# ── tasks that would end the event loop ──────────────────────────────────────────────────────────


async def leave(error: type[BaseException], seconds: float = 0.0) -> None:
    """Raise what ends programs, in a task of its own."""
    await asyncio.sleep(seconds)
    raise error("enough")


async def in_a_task(error: type[BaseException]) -> None:
    """Await the task."""
    await asyncio.create_task(leave(error))


async def gathered(error: type[BaseException]) -> None:
    """Await several tasks."""
    await asyncio.gather(leave(error), asyncio.sleep(0))


async def in_a_group(error: type[BaseException]) -> None:
    """Await a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(leave(error))


async def in_a_group_of_anyio(error: type[BaseException]) -> None:
    """Await a task group of anyio."""
    async with anyio.create_task_group() as group:
        group.start_soon(leave, error)


@ASYNCIO
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("way", [in_a_task, gathered, in_a_group, in_a_group_of_anyio])
async def test_a_task_of_a_job_that_exits(app: App, way, error: type[BaseException]):
    """SystemExit or KeyboardInterrupt in a task that a job awaits ends the job, not the worker (C25)."""

    @app.task
    async def work() -> None:
        await way(error)

    @app.task
    async def after() -> int:
        return 1

    async with app.running():
        outcome = await (await work.enqueue()).outcome(timeout=5)
        assert await (await after.enqueue()).result(timeout=5) == 1
    assert isinstance(outcome, Dead)
    assert outcome.reason == "not retryable"
    assert outcome.record is not None
    assert outcome.record.type == error.__name__


@ASYNCIO
@pytest.mark.parametrize("factory", [None, "user's"])
async def test_a_task_that_exits_after_its_job(app: App, factory: str | None):
    """A task that a job leaves behind does not end the worker either; the program keeps its own task factory."""
    loop, made = asyncio.get_running_loop(), []

    def make(loop, work, **options):
        made.append(work)
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(make if factory else None)
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, facts: complaints.append(facts.get("exception")))
    left = []

    @app.task
    async def work() -> str:
        left.append(asyncio.create_task(leave(SystemExit, 0.05), name="left"))
        cancelled = asyncio.create_task(leave(SystemExit, 5), name="never begun")
        cancelled.cancel()
        return repr(left[0])

    @app.task
    async def after() -> int:
        await asyncio.sleep(0.1)
        return 1

    try:
        async with app.running():
            shown = await (await work.enqueue()).result(timeout=5)
            assert await (await after.enqueue()).result(timeout=5) == 1
        assert loop.get_task_factory() is (make if factory else None)
    finally:
        loop.set_task_factory(None)
    assert "leave" in shown
    assert "left" in shown
    assert isinstance(left[0].exception(), Exception)
    assert bool(made) is bool(factory)


@ASYNCIO
async def test_a_task_that_outlives_the_worker(app: App, caplog: pytest.LogCaptureFixture):
    """The log names a task that a job leaves behind, with the job's id, when the worker ends; the task goes on."""
    left = []

    @app.task
    async def work() -> None:
        left.append(asyncio.create_task(asyncio.sleep(5), name="left"))

    async with app.running():
        job = await work.enqueue()
        assert await job.outcome(timeout=5)
    assert f"job {job.id} has left a task that still runs: sleep" in caplog.text
    assert not left[0].done()
    left[0].cancel()
