"""Real workers on a real NATS, killed, frozen and stopped: every job ends, and every report is true."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest

from taskcore import App, Dead
from taskcore.adapters import open_backend
from taskcore.backend import Delivery, Outgoing, Source
from taskcore.faults import ChaosProxy, NatsServer
from taskcore.lifecycle import ACK
from tests.support.fault_plays import kill_workers
from tests.support.real import require
from tests.support.redis_play import Play, held, until
from tests.support.worker_faults import (
    block_the_loop,
    die_at_a_point,
    freeze_for_longer_than_a_lease,
    letter_reasons,
    stop_with_work_in_hand,
    unsettled_starts,
    work_by_a_wrong_clock,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

LEASE = 1.0  #: seconds, of the workers here
BUSY = 1.0  #: seconds that a busy machine may take longer


@pytest.fixture
async def own() -> AsyncIterator[NatsServer]:
    """Run a server for one test to mistreat."""
    async with require(NatsServer)() as server:
        yield server


async def test_kill_at_random(nats: NatsServer, tmp_path: Path):
    """F01: workers are killed in the middle of 200 jobs; all of them end, and only running jobs run twice."""
    await kill_workers(Play(nats.url), tmp_path, kills=3)


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
    assert await die_at_a_point(Play(nats.url), tmp_path, point, task) == starts


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
            report = await play.check(duplicates_allowed=unsettled_starts(play), delta=0.05)
        assert len(report.histories) == len(jobs)


async def test_frozen_for_longer_than_a_lease(nats: NatsServer, tmp_path: Path):
    """F07: a frozen worker's job is taken over; awake again it settles nothing, and says that it lost the job."""
    await freeze_for_longer_than_a_lease(Play(nats.url), tmp_path)


async def test_a_blocked_loop(nats: NatsServer, tmp_path: Path):
    """F13: a task that blocks the loop for longer than its lease keeps the job, and its worker says so, loudly."""
    await block_the_loop(Play(nats.url), tmp_path)


# ── stopped ──────────────────────────────────────────────────────────────────────────────────────


async def test_stopped_with_work_in_hand(nats: NatsServer, tmp_path: Path):
    """F08: after SIGTERM nothing new starts; what has not started is elsewhere within a second, without blame."""
    await stop_with_work_in_hand(Play(nats.url), tmp_path)


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
                    while worker.status is None and not await letter_reasons(play):  # noqa: ASYNC110 - it has no event
                        await anyio.sleep(0.05)
                if worker.status is None:
                    break
                statuses.append(worker.status)
                play.history.record("died", "", who=worker.who)
        async with play.running("healthy"):
            report = await play.check(attempts=3, duplicates_allowed=2 + len(jobs))
    assert statuses == [-signal.SIGKILL, 1, -signal.SIGSEGV]
    assert await letter_reasons(play) == {poison.id: "poison"}
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
    async with anyio.create_task_group() as group:
        for hours in (-24, -1, 1, 24):
            group.start_soon(partial(work_by_a_wrong_clock, Play(nats.url), hours, delta=0.5, within=2.5))


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
    assert await letter_reasons(play) == {job.id: "exhausted"}


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
