"""Where functions run: loop, threads and processes; time limits interrupt the job that overran and no other."""

from __future__ import annotations

import os
import threading

import anyio
import pytest

from taskcore import App, JobFailed, Retry, current
from tests.support import in_processes
from tests.support.faulty import Log, letters, worker_of
from tests.support.virtual import clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app whose tasks are tried once."""
    return App("memory://", retry=Retry(attempts=1), threads=4, processes=2)


async def test_plain_functions_run_in_threads(app):
    """A plain def does not block the loop, and current() works in it."""

    @app.task
    def plain() -> tuple[int, str]:
        return threading.get_ident(), current().job_id

    async with app.running():
        job = await plain.enqueue()
        thread, job_id = await job.result(timeout=5)

    assert thread != threading.get_ident()
    assert job_id == job.id


async def test_plain_functions_may_run_in_the_loop(app):
    """runs_in="loop" saves the thread where a function only computes a moment."""

    @app.task(runs_in="loop")
    def plain() -> int:
        return threading.get_ident()

    async with app.running():
        assert await (await plain.enqueue()).result(timeout=5) == threading.get_ident()


async def test_threads_are_bounded(app):
    """No more plain functions run at once than there are threads; the others have not started (F15)."""
    running, peaks, gate = [], [], threading.Event()

    @app.task
    def block(number: int) -> None:
        running.append(number)
        peaks.append(len(running))
        gate.wait(5)
        running.remove(number)

    async with app.running(concurrency=50):
        await app.enqueue_many([block.call(number) for number in range(20)])
        await anyio.sleep(0.05)
        assert len(peaks) == 4

        gate.set()
        await app.drain(timeout=5)
    assert max(peaks) == 4
    assert len(peaks) == 20


async def test_waiting_for_a_thread_uses_no_time(app):
    """A time limit counts from the start, not from when a job began to wait for a thread."""

    @app.task(timeout=0.3)
    def work(number: int) -> int:
        threading.Event().wait(0.05)
        return number

    async with app.running(concurrency=50):
        jobs = await app.enqueue_many([work.call(number) for number in range(32)])

        assert [await job.result(timeout=9) for job in jobs] == list(range(32))


async def test_waiting_for_a_thread_is_not_running(app):
    """After stop() nothing that waits for a thread starts, though threads become free (C21)."""
    starts, gate = Log(), threading.Event()

    @app.task
    def block(number: int) -> None:
        starts.append(number)
        gate.wait(5)

    async with app:
        await app.enqueue_many([block.call(number) for number in range(8)])
        async with anyio.create_task_group() as group:
            worker = worker_of(app, None, 50, 5.0)
            await group.start(worker.run)
            await starts.wait(4)
            worker.stop()
            await anyio.sleep(0.02)
            gate.set()
        stats = await app.stats()

    assert len(starts) == 4
    assert (stats.ready, stats.dead) == (4, 0)


@pytest.mark.virtual
async def test_a_time_limit_interrupts_the_job_that_overran(app):
    """The overrunning job is interrupted at its limit; its neighbours and its slot go on."""
    app = App("memory://", clock=clock, retry=Retry(attempts=1))
    ends = []

    @app.task(timeout=10.0)
    async def work(seconds: float) -> float:
        try:
            await anyio.sleep(seconds)
        finally:
            ends.append((seconds, anyio.current_time() - began))
        return seconds

    async with app.running(concurrency=3):
        began = anyio.current_time()
        jobs = await app.enqueue_many([work.call(seconds) for seconds in (9.0, 100.0, 9.5, 9.9, 8.0)])
        results = [await job.outcome() for job in jobs]
        [letter] = await letters(app)

    assert [getattr(result, "value", "dead") for result in results] == [9.0, "dead", 9.5, 9.9, 8.0]
    assert dict(ends)[100.0] == pytest.approx(10.0)
    assert letter.trail.errors[0].type == "TimeoutError"
    assert "timeout of 10.0 s" in letter.trail.errors[0].message


@pytest.mark.virtual
async def test_every_attempt_has_its_own_time():
    """A job that overran is tried again as after any error."""
    app = App("memory://", clock=clock)
    starts = []

    @app.task(timeout=5.0, retry=Retry(attempts=3, base=2.0, factor=1.0, jitter="none"))
    async def slow() -> str:
        starts.append(anyio.current_time())
        if len(starts) < 3:
            await anyio.sleep(60)
        return "quick"

    async with app.running():
        assert await (await slow.enqueue()).result() == "quick"
    assert [start - starts[0] for start in starts] == pytest.approx([0.0, 7.0, 14.0])


async def test_a_thread_that_overran_is_left_alone(app):
    """A thread cannot be killed: the job is dead at its limit, its late result is thrown away, the loss is counted."""
    late, gate = Log(), threading.Event()

    @app.task(timeout=0.05)
    def slow() -> str:
        gate.wait(5)
        late.append(True)
        return "late"

    async with app.running():
        job = await slow.enqueue()
        with pytest.raises(JobFailed, match="took longer than its timeout"):
            await job.result(timeout=2)
        gate.set()
        await late.wait()

        assert app.counters["thread.abandoned"] == 1
        assert app.counters["job.succeeded"] == 0


@pytest.fixture
def processes():
    """Make an app with the tasks that processes can import."""
    app = App("memory://", retry=Retry(attempts=1), processes=2)
    app.include(in_processes.router)
    return app


async def test_processes(processes):
    """runs_in="process" runs in another process, and typed values travel both ways."""
    async with processes.running():
        first = await in_processes.where.enqueue(in_processes.Point(1, 2))
        pid, point = await first.result(timeout=10)

    assert pid != os.getpid()
    assert point == in_processes.Point(2, 4)


async def test_a_job_in_a_process_sees_itself(processes):
    """current() works there, too."""
    async with processes.running():
        job = await in_processes.look.using(headers={"tenant": "7"}).enqueue()

        assert await job.result(timeout=10) == (job.id, 1, {"tenant": "7"})


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("value", "ValueError", "no"),
        ("exit", "SystemExit", "3"),
        ("keyboard", "KeyboardInterrupt", ""),
        ("local", "Local", "only here"),
        ("lock", "ValueError", "lock"),
        ("stubborn", "Stubborn", "7"),
        ("silent", "Silent", ""),
    ],
)
async def test_errors_come_out_of_processes(processes, kind, name, text):
    """Whatever is raised there is recorded with its type, text and place, and the process goes on or is replaced."""
    async with processes.running():
        with pytest.raises(JobFailed) as caught:
            await (await in_processes.fail.enqueue(kind)).result(timeout=10)
        pid, _ = await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result(timeout=10)

    record = caught.value.record
    assert name in record.type + record.message
    assert text in record.message
    assert "in_processes.py" in record.where
    assert pid != os.getpid()


async def test_declared_errors_come_out_typed(processes):
    """What the task declares in raises reaches the caller as itself."""
    async with processes.running():
        with pytest.raises(JobFailed) as caught:
            await (await in_processes.fail.enqueue("declared")).result(timeout=10)

    assert caught.value.error == in_processes.Declared(7)


async def test_policy_sees_the_errors_of_processes(processes):
    """On and give_up_on work for them as for any other."""
    async with processes.running():
        with pytest.raises(JobFailed) as caught:
            await (await in_processes.unlucky.enqueue()).result(timeout=10)

    assert caught.value.reason == "not retryable"


async def test_a_process_that_dies_is_a_failed_attempt(processes):
    """os._exit in a process kills that process, not the worker."""
    async with processes.running():
        with pytest.raises(JobFailed, match=r"ProcessError: the process of this job \(pid \d+\) exited with code 3"):
            await (await in_processes.fail.enqueue("die")).result(timeout=10)

        pid, _ = await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result(timeout=10)
    assert pid != os.getpid()


async def test_a_process_that_overran_is_killed(processes, tmp_path):
    """A process can be killed, and is: at its limit it does not go on."""
    path = tmp_path / "beats"
    async with processes.running():
        await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result(timeout=10)  # it has begun
        with pytest.raises(JobFailed, match="took longer"):
            await (await in_processes.beat.enqueue(str(path))).result(timeout=10)
        size = path.stat().st_size
        await anyio.sleep(0.05)

        assert path.stat().st_size <= size + 1


async def test_an_unfit_result_of_a_process_is_never_repeated(processes):
    """A result that does not fit is the end, as for every other task."""
    async with processes.running():
        with pytest.raises(JobFailed, match="dead: result"):
            await (await in_processes.lie.enqueue()).result(timeout=10)


async def test_tasks_that_a_process_cannot_find(app):
    """A task that no other process could import says what to do."""

    @app.task(runs_in="process")
    def inner() -> None: ...

    async with app.running():
        with pytest.raises(JobFailed, match="is not a task in the new process") as caught:
            await (await inner.enqueue()).result(timeout=10)
    assert "module-level function" in caught.value.record.traceback
