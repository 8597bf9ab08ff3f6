"""Functions, results, hooks and clocks that misbehave in real workers on real brokers: jobs end, workers live on."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from taskcore import App, Dead, DeadLetter, Expired, Succeeded
from taskcore.faults import NatsServer, Server
from taskcore.worker.signals import INTERRUPTED
from tests.support.fault_plays import client_of, worker_of
from tests.support.fault_tasks import RAISED, STORM
from tests.support.redis_play import Play, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


async def letters_of(app: App, play: Play) -> dict[str, DeadLetter]:
    """Read the dead letters of the play's queue by their jobs' ids."""
    return {letter.job_id: letter async for letter in app.dead_letters.read(play.queue)}


# ── functions ────────────────────────────────────────────────────────────────────────────────────


async def test_errors_of_every_kind(play: Play, tmp_path: Path):
    """F11, F68: what a function raises is a failed attempt of its job, recorded within bounds; the worker lives on."""
    async with client_of(play) as app, worker_of(play, tmp_path) as worker:
        jobs = {kind: await app.tasks["raise"].enqueue(kind) for kind in (*RAISED, "RecursionError")}
        for job in jobs.values():
            assert isinstance(await job.outcome(timeout=20), Dead)
        assert await (await app.tasks["work"].enqueue(1)).result(timeout=10) == 1
        assert worker.status is None
        letters = await letters_of(app, play)
    assert set(letters) == {job.id for job in jobs.values()}
    for kind, job in jobs.items():
        errors = letters[job.id].trail.errors
        last = kind in {"SystemExit", "KeyboardInterrupt"}  # they say that the program shall end: never tried again
        assert [error.attempt for error in errors] == ([1] if last else [1, 2])
        recorded = "ValueError" if kind == "ExceptionGroup" else kind  # the error of the group that decides
        assert {error.type.rpartition(".")[2] for error in errors} == {recorded}
        assert all(len(error.message) <= 2_000 and len(error.traceback) <= 10_000 for error in errors)


@pytest.mark.parametrize("task", ["fork", "fork_in_thread"])
async def test_functions_that_fork(play: Play, tmp_path: Path, task: str):
    """F16: however the copy of the process ends, its job is settled once, by the worker, which lives on."""
    ways = ["_exit", "exit", "return", *(["wait"] if task == "fork" else [])]
    async with client_of(play) as app, worker_of(play, tmp_path, concurrency=1) as worker:
        children = [await (await app.tasks[task].enqueue(how)).result(timeout=10) for how in ways]
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(5)])
        assert [await one.result(timeout=10) for one in jobs] == list(range(5))
        assert worker.status is None
        await play.check()
        assert [state_of(child) for child in children] == ["Z"] * len(ways)  # ended; the functions waited for none
    assert play.count("settled") == play.count("start") == len(ways) + 5


def state_of(pid: int) -> str:
    """Return the letter that the system has for the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def test_functions_that_do_not_end(play: Play, tmp_path: Path):
    """F14: a coroutine that ignores it is cancelled again, a thread is left alone; other jobs run, a worker stops."""
    async with client_of(play) as app, worker_of(play, tmp_path, threads=1, grace=0.5) as worker:
        began = anyio.current_time()
        deaf, hung = await app.tasks["stubborn"].enqueue(3), await app.tasks["endless"].enqueue(30.0)
        await app.tasks["stubborn"].enqueue(1_000_000)
        assert await (await app.tasks["work"].enqueue(1)).result(timeout=10) == 1
        assert await (await app.tasks["in_thread"].enqueue(2, 0.0)).result(timeout=10) == 2
        outcome = await hung.outcome(timeout=20)
        assert isinstance(outcome, Dead)
        assert outcome.record is not None
        assert "took longer than its timeout of 0.3 s" in outcome.record.message
        assert await deaf.outcome(timeout=20) == Succeeded(None), "it returned in the end"
        assert anyio.current_time() - began < 10
        await until(lambda: play.count("event", name="thread.abandoned") == 1, "the thread is reported")
        for _ in range(3):
            worker.terminate()
            await anyio.sleep(0.1)
        assert await worker.wait(within=10.0) == INTERRUPTED
    assert play.count("start") == 5


async def test_more_jobs_than_threads(play: Play, tmp_path: Path):
    """F15: jobs that wait for a thread are held without blame for longer than their lease, and start once."""
    async with client_of(play) as app, worker_of(play, tmp_path, threads=2, concurrency=60, lease=0.5):
        await app.enqueue_many([app.tasks["in_thread"].call(number, 0.05) for number in range(60)])
        await play.check()
    entries = play.merged().entries
    received = [entry for entry in entries if entry.facts.get("name") == "received"]
    assert [entry.facts["redeliveries"] for entry in received] == [0] * 60
    running = most = 0
    for entry in entries:
        running += (entry.kind == "start") - (entry.kind == "end")
        most = max(most, running)
    assert most == 2


# ── results, hooks, storms ───────────────────────────────────────────────────────────────────────


async def test_results_that_cannot_be_kept(play: Play, tmp_path: Path):
    """F69: a result of the wrong type, or too large, is a dead letter that says so; its job is not repeated."""
    async with client_of(play) as app, worker_of(play, tmp_path, result_limit=10_000):
        jobs = [await app.tasks["unstorable"].enqueue(size) for size in (0, 20_000)]
        outcomes = [await job.outcome(timeout=20) for job in jobs]
        assert await (await app.tasks["unstorable"].enqueue(5)).result(timeout=10) == "xxxxx"
        letters = await letters_of(app, play)
    assert [getattr(outcome, "reason", None) for outcome in outcomes] == ["result", "result"]
    assert set(letters) == {job.id for job in jobs}
    assert "the result has 20,002 bytes" in letters[jobs[1].id].trail.errors[0].message
    assert play.count("start") == 3


async def test_parts_of_the_app_that_raise(play: Play, tmp_path: Path):
    """F67: listeners, hooks, log handlers and middleware that raise change no outcome; a dependency fails its job."""
    async with client_of(play) as app, worker_of(play, tmp_path, broken=True) as worker:
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(5)])
        once, fails, broken = [await app.tasks[name].enqueue(7) for name in ("once_bitten", "fail", "depends")]
        assert [await job.result(timeout=20) for job in (*jobs, once)] == [*range(5), 7]
        assert isinstance(await fails.outcome(timeout=20), Dead)
        assert isinstance(await broken.outcome(timeout=20), Dead)
        assert worker.status is None
        await play.check()
        letters = await letters_of(app, play)
        worker.terminate()
        assert await worker.wait() == 0
    assert set(letters) == {fails.id, broken.id}
    assert {error.message for error in letters[broken.id].trail.errors} == {"no connection to the shop"}


async def test_a_storm_of_retries(play: Play, tmp_path: Path):
    """F70: a thousand jobs that fail at once are sent back to different times: no tenth of a second has far more."""
    async with client_of(play) as app, worker_of(play, tmp_path, concurrency=500, lease=10.0):
        await app.enqueue_many([app.tasks["storm"].call(number) for number in range(1000)])
        await until(lambda: play.count("end", attempt=2) == 1000, "all retries", within=60)
        await play.check(attempts=2)
    waits = [entry.facts["after"] for entry in play.merged().entries if entry.facts.get("verdict") == "reschedule"]
    bins = sorted(sum(low <= wait < low + 0.1 for wait in waits) for low in [n / 10 for n in range(int(STORM * 10))])
    assert sum(bins) == 1000
    assert bins[-2] <= 3 * sum(bins) / len(bins), bins


# ── times ────────────────────────────────────────────────────────────────────────────────────────


async def test_deadlines(play: Play, tmp_path: Path):
    """F61: a deadline that passes in a queue or in a worker keeps a job from starting; what runs goes on."""
    async with client_of(play) as app:
        work = app.tasks["work"]
        queued = await work.using(expires=0.3).enqueue(1)
        await anyio.sleep(0.4)
        async with worker_of(play, tmp_path, concurrency=1):
            assert await queued.outcome(timeout=10) == Expired()
            running = await work.using(expires=0.5).enqueue(2, 1.0)
            await until(lambda: play.count("start") == 1, "a start")
            in_worker = await work.using(expires=0.4).enqueue(3)
            assert await running.result(timeout=10) == 2
            assert await in_worker.outcome(timeout=10) == Expired()
            await play.check()
    assert play.count("start") == 1


@pytest.mark.parametrize("jump", [3600.0, -3.0], ids=["jumped", "stood"])
async def test_a_machine_that_was_suspended(play: Play, broker: Server, tmp_path: Path, jump: float):
    """F58: whether its clock jumped or stood still, a worker that slept does not settle what another has taken over."""
    fenced = jump > 0 or not isinstance(broker, NatsServer)  # NATS takes a late end, which ends nothing any more
    if play.store is not None:  # its leases end with its connection
        play.url = f"{broker.url}?min_queue_age=0.1&timeout=1&heartbeat=1"
    async with client_of(play) as app, worker_of(play, tmp_path, "sleeper", jump=jump) as sleeper:
        job = await app.tasks["work"].enqueue(1, 0.5)
        await until(lambda: play.count("start") == 1, "a start")
        sleeper.pause()
        sleeper.send(signal.SIGUSR1)  # arrives when it wakes up, before anything else
        async with worker_of(play, tmp_path, "heir"):
            assert await job.result(timeout=20) == 1
            sleeper.resume()
            if fenced:
                await until(lambda: play.count("event", name="job.lost") == 1, "the sleeper learns of it")
            else:
                await until(lambda: play.count("settled", verdict="ack") == 2, "the sleeper believes its clock")
            second = await app.enqueue_many([app.tasks["work"].call(number) for number in range(2, 12)])
            assert [await one.outcome(timeout=20) for one in second] == [Succeeded(number) for number in range(2, 12)]
            assert await job.outcome(timeout=1) == Succeeded(1)
            await play.check(duplicates_allowed=1)
    assert play.count("settled", verdict="ack") == 12 - fenced
