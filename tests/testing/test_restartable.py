"""The pytest plugin's fixtures: a worker that dies where a test says, a job that is handed out again."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, InvalidSetting, NotRunning, Router, current
from taskcore.testing.plugin import AssertIdempotent, CrashWorker, Redeliver, RunningApp

pytestmark = pytest.mark.anyio

router = Router()
runs: list[int] = []  # the fence of each start
gate = anyio.Event()


@router.task
async def count(value: int = 7) -> int:
    """Count a start."""
    runs.append(current().fence)
    return value


@router.task
async def wait() -> str:
    """Start, and wait for the gate."""
    runs.append(current().fence)
    await gate.wait()
    return "done"


@pytest.fixture(autouse=True)
def fresh_world():
    """Forget what has happened, and close the gate."""
    global gate  # noqa: PLW0603 - an event belongs to one loop
    runs.clear()
    gate = anyio.Event()


async def started(number: int = 1) -> None:
    """Wait for so many starts."""
    with anyio.fail_after(5):
        while len(runs) < number:  # noqa: ASYNC110 - a list has no event
            await anyio.sleep(0.005)


@pytest.mark.parametrize(("at", "starts"), [("run.returned", 2), ("settle.ended", 1), ("settle.settled", 1)])
async def test_a_worker_dies_at_a_point(
    taskcore_app: RunningApp, crash_worker: CrashWorker, at: str, starts: int
) -> None:
    """A worker dies at its point only, a new worker finishes the job, and what was stored before is not done again."""
    async with taskcore_app(router) as app:
        async with crash_worker(app, at=at):
            job = await count.enqueue()
        assert len(runs) == 1
        assert await job.result(timeout=5) == 7
        await app.drain(timeout=5)
        assert len(runs) == starts
        assert runs == sorted(set(runs)), "each holder has a higher fence"


async def test_a_worker_dies_at_once(taskcore_app: RunningApp, crash_worker: CrashWorker) -> None:
    """Without a point it dies at the end of the block, in the middle of whatever it does, and gives nothing back."""
    async with taskcore_app(router) as app:
        async with crash_worker(app):
            job = await wait.enqueue()
            await started()
        gate.set()
        assert await job.result(timeout=5) == "done"
        assert len(runs) == 2
        assert not app.counters["job.released"]


async def test_a_worker_stays_dead(taskcore_app: RunningApp, crash_worker: CrashWorker) -> None:
    """Without a restart no worker runs any more, and leaving the app is no trouble."""
    async with taskcore_app(router) as app:
        async with crash_worker(app, at="run.returned", restart=False):
            job = await count.enqueue()
        await anyio.sleep(0.05)
        assert await job.status() == "queued"
        assert len(runs) == 1


async def test_the_nth_visit(taskcore_app: RunningApp, crash_worker: CrashWorker) -> None:
    """A point may be passed before it is the end."""
    async with taskcore_app(router) as app:
        async with crash_worker(app, at="run.returned", nth=3):
            for number in range(3):
                await count.enqueue(number)
            await started(3)
        await app.drain(timeout=5)
        assert len(runs) in range(4, 7)  # at least the third ran again; the others if they were not settled yet


async def test_a_point_that_is_not_passed(taskcore_app: RunningApp, crash_worker: CrashWorker) -> None:
    """If the worker does not pass the point, the test fails; so it does if no worker ever could."""
    async with taskcore_app(router) as app:
        with pytest.raises(TimeoutError, match=r"no worker passed settle\.ended"):
            async with crash_worker(app, at="settle.ended", within=0.05):
                pass
        for point in ("enqueue.claimed", "settle.middle"):
            with pytest.raises(InvalidSetting, match=r"they pass: .*run\.returned"):
                async with crash_worker(app, at=point):
                    pass
        assert await (await count.enqueue()).result(timeout=5) == 7, "the worker lives"


async def test_another_app(crash_worker: CrashWorker) -> None:
    """An app that the kit has not started cannot be killed by it."""
    with pytest.raises(NotRunning, match="taskcore_app"):
        async with crash_worker(App("memory://")):
            pass


async def test_redelivered_while_it_runs(taskcore_app: RunningApp, redeliver: Redeliver) -> None:
    """A job whose lease is taken away runs a second time, with a higher fence; the caller gets one result."""
    async with taskcore_app(router) as app:
        job = await wait.enqueue()
        await started()
        await redeliver(app, job)
        await started(2)
        gate.set()
        assert await job.result(timeout=5) == "done"
        await app.drain(timeout=5)
        assert runs[0] < runs[1]
        assert app.counters["job.lost"] == 1


async def test_nothing_to_redeliver(taskcore_app: RunningApp, redeliver: Redeliver) -> None:
    """A job that no worker holds cannot be taken away; the text says where it is."""
    async with taskcore_app(router) as app:
        job = await count.using(delay=60.0).enqueue()
        with pytest.raises(LookupError, match="scheduled"):
            await redeliver(app, job)
        assert await job.cancel()
        with pytest.raises(LookupError, match="over"):
            await redeliver(app, job)


async def test_failures_come_out_as_they_are(taskcore_app: RunningApp) -> None:
    """What a test raises leaves the fixture's context unwrapped."""
    with pytest.raises(LookupError, match="mine"):
        async with taskcore_app(router):
            raise LookupError("mine")


async def test_assert_idempotent(assert_idempotent: AssertIdempotent) -> None:
    """The fixture is the function."""
    proof = await assert_idempotent(count, 7, effects=[])
    assert proof.note == ""
