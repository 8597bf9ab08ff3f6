"""Real workers on a real Redis, killed, frozen and stopped: every job ends once, and every report is true."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import Dead
from taskcore.adapters import open_backend
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK
from tests.support.fault_plays import kill_workers
from tests.support.redis_play import ATTEMPTS, Play, calls, until
from tests.support.worker_faults import (
    block_the_loop,
    die_at_a_point,
    freeze_for_longer_than_a_lease,
    letter_reasons,
    unsettled_starts,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

LEASE = 1.0  #: seconds, of the workers here


async def test_kill_at_random(shared: RedisServer, tmp_path: Path):
    """F01: workers are killed in the middle of 200 jobs; all of them end, and only running jobs run twice."""
    await kill_workers(Play(shared.url), tmp_path, kills=4)


#: Where a worker dies, on which job, and how often its function starts then.
DEATHS = [
    ("run.returned", "work", 2),  # F02: its effect is done, its result is not stored
    ("settle.ended", "work", 1),  # F03: its result is stored
    ("settle.settled", "work", 1),
    ("settle.ended", "once_bitten", 3),  # F05: the retry is not written
    ("settle.settled", "once_bitten", 2),  # and written
    ("settle.ended", "fail", 4),  # F04, F05: at the first failure
    ("settle.settled", "fail", 3),
]


@pytest.mark.parametrize(("point", "task", "starts"), DEATHS)
async def test_death_at_a_point(shared: RedisServer, tmp_path: Path, point: str, task: str, starts: int):
    """F02–F05: a worker process ends between two steps; the next one goes on there, and no step is done twice."""
    assert await die_at_a_point(Play(shared.url), tmp_path, point, task) == starts


async def test_killed_while_jobs_become_due(shared: RedisServer, tmp_path: Path):
    """F06, F60: jobs due later than a lease lasts come once, none early, though workers that move them are killed."""
    play = Play(shared.url)
    async with play.app("client") as app, AsyncExitStack() as exits:
        calls = [app.tasks["work"].using(delay=1.5 + number / 100).call(number) for number in range(100)]
        jobs = await app.enqueue_many(calls)
        workers = [await exits.enter_async_context(play.worker(tmp_path, f"w{number}")) for number in range(3)]
        for worker in workers[:2]:
            await until(lambda: play.count("start") >= 20 * workers.index(worker) + 5, "some start")  # noqa: B023
            worker.kill()
        await play.quiet()
        report = await play.check(duplicates_allowed=unsettled_starts(play, "killed"), delta=0.02)
    assert len(report.histories) == len(jobs)


async def test_frozen_for_longer_than_a_lease(shared: RedisServer, tmp_path: Path):
    """F07: a frozen worker's job is taken over; awake again it settles nothing, and says that it lost the job."""
    await freeze_for_longer_than_a_lease(Play(shared.url), tmp_path)


async def test_a_blocked_loop(shared: RedisServer, tmp_path: Path):
    """F13: a task that blocks the loop for longer than its lease keeps the job, and its worker says so, loudly."""
    await block_the_loop(Play(shared.url), tmp_path)


async def test_stopped_with_work_in_hand(shared: RedisServer, tmp_path: Path):
    """F08: after SIGTERM nothing new starts; what has not started is elsewhere within a second, without blame."""
    play = Play(shared.url)
    async with play.app("client") as app, play.worker(tmp_path, "old", concurrency=10, lease=30.0, grace=5.0) as old:
        await old.says("ready")
        await app.enqueue_many([app.tasks["work"].call(number, 0.8) for number in range(30)])
        await until(lambda: play.count("start") == 10, "ten starts")
        async with play.worker(tmp_path, "new", concurrency=20, lease=30.0, queues=["elsewhere"]) as warm:
            await warm.says("ready")  # Python is in the cache of files now
        old.terminate()
        signalled = play.history.now()
        async with play.running("heir", concurrency=30, lease=30.0):
            await until(lambda: play.count("start") == 30, "all start")
            began = max(entry.at for entry in play.merged().entries if entry.kind == "start")
            assert await old.wait() == 0
            await play.check()
    assert began - signalled < 1.5
    assert not [
        entry
        for entry in play.merged().entries
        if entry.kind == "start" and entry.who == "old" and entry.at > signalled
    ]
    assert {
        entry.facts["redeliveries"] for entry in play.merged().entries if entry.facts.get("name") == "received"
    } == {0}


async def test_poison_is_buried_and_other_jobs_run(shared: RedisServer, tmp_path: Path):
    """F10–F12: a job that kills its worker, in three ways, is dead after three starts; nine beside it are done."""
    play = Play(shared.url)
    async with play.app("client") as app:
        poison = await app.tasks["kill"].enqueue("killed left crashed")
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(9)])
        statuses: list[int] = []
        for number in range(6):
            async with play.worker(tmp_path, f"w{number}", concurrency=1) as worker:
                with anyio.fail_after(30):  # for Python to start on a busy machine, too
                    while worker.status is None and not await letter_reasons(play):  # noqa: ASYNC110 - as above
                        await anyio.sleep(0.02)
                if worker.status is None:  # it stops in order: a kill here could hit a job beside the poison
                    worker.terminate()
                    await worker.wait()
                    break
                statuses.append(worker.status)
                play.history.record("died", "", who=worker.who)
        async with play.running("healthy"):
            report = await play.check(attempts=3, duplicates_allowed=3)
    assert statuses == [-signal.SIGKILL, 1, -signal.SIGSEGV]
    assert [entry.facts["reason"] for entry in play.merged().entries if entry.facts.get("verdict") == "bury"] == [
        "poison"
    ]
    assert sum(entry.kind == "start" for entry in report.histories[poison.id]) == 3
    for job in jobs:  # a second run is that of one that had returned, and was not settled yet when the poison killed
        history = report.histories[job.id]
        assert {entry.facts["attempt"] for entry in history if entry.kind == "start"} == {1}
        assert [entry.kind for entry in history if entry.kind in {"start", "end"}] in (
            ["start", "end"],
            ["start", "end"] * 2,
        )


@pytest.mark.slow
async def test_a_hundred_workers_leave_nothing(own: RedisServer):
    """F17: after 100 workers, half of which died without a word, Redis has one group, no consumer, no key of theirs."""
    play, port = Play(own.url), own.port
    async with play.app("client", lease=0.3) as app:

        async def keys() -> set[bytes]:
            return set(await command(port, "KEYS", "*"))

        async def generation(number: int) -> None:
            async with open_backend(own.url) as backend, backend.consume([play.queue], lease=0.3) as source:
                await app.tasks["work"].enqueue(number)
                [delivery, *_] = await source.receive(1)
                if number % 2:
                    return
                await source.settle([(delivery, ACK)])

        await generation(0)
        before = await keys()
        for number in range(1, 100):
            await generation(number)
        async with app.running():
            await play.quiet()
        after = await keys()
        ours = f"tc:{{{play.queue}}}:".encode()
        [group] = await command(port, "XINFO", "GROUPS", ours + b"jobs")
        consumers: list[Any] = await command(port, "XINFO", "CONSUMERS", ours + b"jobs", "workers")
    assert {key for key in after if key.startswith(ours)} <= {
        ours + part for part in (b"jobs", b"ended", b"ended_before", b"wake")
    }
    assert {key for key in after - before if not key.startswith((ours, b"tcr:"))} == set()
    assert len(consumers) <= 1
    assert dict(zip(group[::2], group[1::2], strict=True))[b"pending"] == 0
    clients: bytes = await command(port, "CLIENT", "LIST")
    assert len(clients.splitlines()) <= 2, clients.decode()


async def test_dead_letters_that_cannot_be_written(shared: RedisServer, tmp_path: Path):
    """F64: while dead letters have no place, the job stays, with an alarm and no hot loop; then it is a letter."""
    play = Play(shared.url)
    letters = f"tc:{{{play.queue}}}:letters"
    async with play.app("client") as app, play.worker(tmp_path, "worker") as worker:
        await worker.says("ready")
        job = await app.tasks["fail"].using(delay=0.3).enqueue(1)
        await command(shared.port, "SET", letters, "of another program")
        await worker.says("holds something that is not ours")
        before = await calls(shared.port, "evalsha")
        await anyio.sleep(2.5)
        assert await calls(shared.port, "evalsha") - before < 100
        assert not play.count("settled", verdict="bury")
        await command(shared.port, "DEL", letters)
        assert isinstance(await job.outcome(timeout=10), Dead)
        await play.check(duplicates_allowed=ATTEMPTS)
    assert list(await letter_reasons(play)) != []
