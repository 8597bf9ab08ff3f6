"""Real workers on a real NATS, killed, frozen and stopped: every job ends, and every report is true."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from taskcore import App, Dead
from taskcore.adapters import open_backend
from taskcore.backend import Delivery, Outgoing, Source
from taskcore.faults import ChaosProxy, NatsServer
from taskcore.faults.crash import CRASHED
from taskcore.lifecycle import ACK
from tests.support.fault_plays import kill_workers
from tests.support.real import require
from tests.support.redis_play import Play, declare, held, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

LEASE = 1.0  #: seconds, of the workers here
BUSY = 1.0  #: seconds that a busy machine may take longer


@pytest.fixture
async def own() -> AsyncIterator[NatsServer]:
    """Run a server for one test to mistreat."""
    async with require(NatsServer)() as server:
        yield server


async def letters_of(play: Play) -> dict[str, str]:
    """Map the job ids of the dead letters to their reasons."""
    async with App(play.url, store=play.store or play.url) as app:
        return {letter.job_id: letter.reason async for letter in app.dead_letters.read(play.queue)}


async def test_kill_at_random(nats: NatsServer, tmp_path: Path):
    """F01: workers are killed in the middle of 200 jobs; all of them end, and only running jobs run twice."""
    await kill_workers(Play(nats.url), tmp_path, kills=3)


def unsettled(play: Play) -> int:
    """Count the unsettled starts of the dead workers: so many jobs had to run again."""
    entries = play.merged().entries
    dead = {entry.who for entry in entries if entry.kind == "died"}
    started = {(entry.who, entry.job) for entry in entries if entry.kind == "start" and entry.who in dead}
    return len(started - {(entry.who, entry.job) for entry in entries if entry.kind == "settled"})


#: Where a worker dies, on which job, and how often its function starts then.
DEATHS = [
    ("run.returned", "work", 2),  # F02: its effect is done, its result is not stored
    ("settle.ended", "work", 1),  # F03: its result is stored
    ("settle.settled", "work", 1),
    ("settle.ended", "once_bitten", 3),  # F05: the retry is not written
    ("nats.retry.copied", "once_bitten", 2),  # written, and the job it came from has not ended
    ("nats.bury.written", "fail", 3),  # F04: the letter is written, and its job has not ended
]


@pytest.mark.parametrize(("point", "task", "starts"), DEATHS)
async def test_death_at_a_point(nats: NatsServer, tmp_path: Path, point: str, task: str, starts: int):
    """F02–F05: a worker process ends between two steps; the next one goes on there, and no step is done twice."""
    play = Play(nats.url)
    async with play.app("client") as app:
        job = await app.tasks[task].enqueue(1)
        async with play.worker(tmp_path, "dying", crash_at=point) as worker:
            assert await worker.wait() == CRASHED
        async with play.worker(tmp_path, "heir"):
            await job.outcome(timeout=20)
            report = await play.check(duplicates_allowed=1)
    assert sum(entry.kind == "start" for entry in report.histories[job.id]) == starts
    assert len(await letters_of(play)) == (task == "fail")


@pytest.mark.parametrize("version", ["", "2.10"], ids=["newest", "2.10"])
async def test_killed_while_jobs_become_due(tmp_path: Path, version: str):
    """F06: jobs become due once, none early, though the workers that move them are killed: by server and by timer."""
    async with require(NatsServer, version)(version=version) as server:
        play = Play(server.url)
        async with play.app("client") as app, AsyncExitStack() as exits:
            calls = [app.tasks["work"].using(delay=1.5 + number / 100).call(number) for number in range(100)]
            jobs = await app.enqueue_many(calls)
            workers = [await exits.enter_async_context(play.worker(tmp_path, f"w{number}")) for number in range(3)]
            for index, worker in enumerate(workers[:2]):
                await until(lambda: play.count("start") >= 20 * index + 5, "some start")  # noqa: B023
                worker.kill()
            await play.quiet()
            report = await play.check(duplicates_allowed=unsettled(play), delta=0.05)
        assert len(report.histories) == len(jobs)


async def test_frozen_for_longer_than_a_lease(nats: NatsServer, tmp_path: Path):
    """F07: a frozen worker's job is taken over; awake again it settles nothing, and says that it lost the job."""
    play = Play(nats.url)
    async with play.app("client") as app, play.worker(tmp_path, "frozen") as frozen:
        await frozen.says("ready")
        job = await app.tasks["work"].enqueue(1, 0.5)
        await until(lambda: play.count("start") == 1, "a start")
        frozen.pause()
        async with play.worker(tmp_path, "heir") as heir:
            await heir.says("ready")
            assert await job.result(timeout=10) == 1
            frozen.resume()
            await until(lambda: play.count("event", name="job.lost") >= 1, "the frozen one learns of it")
            await play.check(duplicates_allowed=1)
    assert play.count("settled", verdict="ack") == 1


async def test_a_blocked_loop(nats: NatsServer, tmp_path: Path):
    """F13: a task that blocks the loop for longer than its lease keeps the job, and its worker says so, loudly."""
    play = Play(nats.url)
    async with play.app("client") as app, play.worker(tmp_path, "blocked") as blocked:
        await blocked.says("ready")
        await app.tasks["block"].enqueue(2.5 * LEASE)
        await until(lambda: play.count("start") == 1, "a start")
        async with play.worker(tmp_path, "heir"):
            await until(lambda: play.count("event", name="loop.blocked") >= 1, "an alarm")
            await play.check()
    assert play.count("settled", verdict="ack") == play.count("start") == 1


# ── stopped ──────────────────────────────────────────────────────────────────────────────────────


async def test_stopped_with_work_in_hand(nats: NatsServer, tmp_path: Path):
    """F08: after SIGTERM nothing new starts; what has not started is elsewhere within a second, without blame."""
    play = Play(nats.url)
    async with play.app("client") as app, play.worker(tmp_path, "old", concurrency=10, lease=30.0, grace=5.0) as old:
        await old.says("ready")
        await app.enqueue_many([app.tasks["work"].call(number, 0.8) for number in range(30)])
        await until(lambda: play.count("start") == 10, "ten starts")
        async with play.running("heir", concurrency=30, lease=30.0):
            old.terminate()
            signalled = play.history.now()
            assert await old.wait() == 0
            await play.check()
    starts = [entry for entry in play.merged().entries if entry.kind == "start"]
    assert max(entry.at for entry in starts) - signalled < 1.5
    assert not [entry for entry in starts if entry.who == "old" and entry.at > signalled]
    received = [entry for entry in play.merged().entries if entry.facts.get("name") == "received"]
    assert {entry.facts["redeliveries"] for entry in received} == {0}


# ── poison, crowds, clocks ───────────────────────────────────────────────────────────────────────


async def test_poison_is_buried_and_other_jobs_run(nats: NatsServer, tmp_path: Path):
    """F10–F12: a job that kills its worker, in three ways, is dead after three starts; nine beside it are done."""
    play = Play(nats.url)
    async with play.app("client") as app:
        poison = await app.tasks["kill"].enqueue("killed left crashed")
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(9)])
        statuses: list[int] = []
        for number in range(6):
            async with play.worker(tmp_path, f"w{number}", concurrency=1) as worker:
                with anyio.move_on_after(15):
                    while worker.status is None and not await letters_of(play):  # noqa: ASYNC110 - it has no event
                        await anyio.sleep(0.05)
                if worker.status is None:
                    break
                statuses.append(worker.status)
                play.history.record("died", "", who=worker.who)
        async with play.running("healthy"):
            report = await play.check(attempts=3, duplicates_allowed=2 + len(jobs))
    assert statuses == [-signal.SIGKILL, 1, -signal.SIGSEGV]
    assert await letters_of(play) == {poison.id: "poison"}
    assert sum(entry.kind == "start" for entry in report.histories[poison.id]) == 3
    for job in jobs:
        assert {entry.facts["attempt"] for entry in report.histories[job.id] if entry.kind == "start"} == {1}


async def test_workers_that_die_leave_nothing(own: NatsServer):
    """F17: after thirty workers that died without a word the server has one consumer, and no connection of theirs."""
    async with open_backend(own.url) as backend:
        for _ in range(30):
            async with (
                ChaosProxy("127.0.0.1", own.port) as proxy,
                open_backend(f"nats://127.0.0.1:{proxy.port}") as other,
                other.consume(["crowd"], lease=5) as source,
            ):
                with anyio.move_on_after(0.02):
                    await source.receive(1)
                proxy.cut()
        async with backend.consume(["crowd"], lease=5):
            state = await backend._link.api(f"CONSUMER.NAMES.{backend._streams.named('crowd').name}")
            assert len(state["consumers"]) == 1, state
        await backend.admin.delete("crowd")


async def test_clocks_that_are_wrong(nats: NatsServer):
    """F57: workers whose clocks are hours or days wrong start nothing early or late, and hold their leases."""

    async def live(hours: int) -> None:
        play = Play(nats.url)
        wrong = App(play.url, clock=lambda: time.time() + 3600 * hours, lease=0.6)
        declare(wrong, play.history, play.queue, "wrong")
        async with play.app("client") as client:
            sent = play.history.now()
            await client.tasks["work"].using(delay=0.5).enqueue(1)
            await client.tasks["work"].enqueue(2, 1.5)
            await client.tasks["once_bitten"].enqueue(3)
            async with wrong.running(), wrong.running():
                await play.check(delta=0.5)
        starts = {entry.job: entry.at for entry in play.history.entries if entry.kind == "start"}
        assert len(starts) == 3
        assert max(starts.values()) - sent < 2.5

    async with anyio.create_task_group() as group:
        for hours in (-24, -1, 1, 24):
            group.start_soon(live, hours)


async def test_dead_letters_that_cannot_be_written(nats: NatsServer, tmp_path: Path):
    """F64: while dead letters have no place, the job stays, with an alarm and no hot loop; then it is a letter."""
    play = Play(nats.url)
    async with play.app("client") as app, open_backend(nats.url) as backend, play.worker(tmp_path, "worker") as worker:
        await worker.says("ready")
        stream = backend._streams.named(play.queue)
        await backend._streams.ensure_dead(stream)
        settings = (await backend._link.api(f"STREAM.INFO.{stream.dead_name}"))["config"]
        await backend._link.api(f"STREAM.UPDATE.{stream.dead_name}", settings | {"sealed": False, "max_bytes": 10})
        job = await app.tasks["fail"].enqueue(1)
        await worker.says("refuses a copy or a dead letter")
        before = len(worker.output(lines=10_000).splitlines())
        await anyio.sleep(2.5)
        assert len(worker.output(lines=10_000).splitlines()) - before < 10
        assert not play.count("settled", verdict="bury")
        await backend._link.api(f"STREAM.UPDATE.{stream.dead_name}", settings)
        assert isinstance(await job.outcome(timeout=10), Dead)
        await play.check(duplicates_allowed=3)
    assert await letters_of(play) == {job.id: "exhausted"}


async def test_settling_around_the_end_of_a_lease(nats: NatsServer):
    """F62: settlings a hair before or after a lease ends: each job is accepted exactly once."""
    lease, count, accepted = 0.5, 250, list[bytes]()
    async with (
        held(nats.url, "edge", lease=lease) as (backend, source),
        held(nats.url, "edge", lease=60.0) as (_, heir),
    ):
        await backend.publish([Outgoing("edge", f"{number}", b"%d" % number) for number in range(count)])
        mine: list[Delivery] = []
        began = anyio.current_time()
        while len(mine) < count:
            mine += await source.receive(count)
        async with anyio.create_task_group() as group:
            group.start_soon(inherit, heir, accepted)
            for index, one in enumerate(mine):
                await anyio.sleep_until(began + lease - 0.12 + index / 1000)
                if not await source.settle([(one, ACK)]):
                    accepted.append(one.envelope)
            await until(lambda: len(accepted) >= count, "all of them")
            await anyio.sleep(2 * lease)
            group.cancel_scope.cancel()
        await backend.admin.delete("edge")
    assert len(accepted) == len(set(accepted)) == count


async def inherit(heir: Source, accepted: list[bytes]) -> None:
    """Take whatever lease ends, and settle it."""
    while True:
        theirs = await heir.receive(20)
        assert await heir.settle([(one, ACK) for one in theirs]) == []
        accepted += [one.envelope for one in theirs]


async def test_an_idle_worker_tells_an_outage_of_a_second(own: NatsServer):
    """It tells the loss and the recovery once each, the recovery within a second after the server answers again."""
    app = App(own.url)
    app.task(name="idle")(anyio.sleep_forever)
    async with app.running():
        await anyio.sleep(0.5)
        own.kill()
        await anyio.sleep(1.0)
        await own.restart()
        with anyio.fail_after(1.0 + BUSY):
            await until(lambda: app.counters["broker.back"] > 0, "it says that the broker is back")
        assert app.counters["broker.lost"] == app.counters["broker.back"] == 1
