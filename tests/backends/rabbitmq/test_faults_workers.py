"""Real workers on a real node, killed, frozen and stopped: every job ends, and no answer is wrong."""

from __future__ import annotations

import signal

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.faults import ChaosProxy
from tests.support.fault_plays import kill_workers
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import until
from tests.support.worker_faults import (
    die_at_a_point,
    freeze_for_longer_than_a_lease,
    letter_reasons,
    stop_with_work_in_hand,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


async def test_kill_at_random(node, tmp_path):
    """F01: workers are killed in the middle of 200 jobs; all of them end, and only running jobs run twice."""
    await kill_workers(RabbitPlay(node.url, tmp_path), tmp_path, kills=3)


#: Where a worker dies, on which job, and how often its function starts then at most.
STEPS = [
    ("run.returned", "work", 2),  # F02: its effect is done, its result is not stored
    ("settle.ended", "work", 1),  # F03: its result is stored
    ("settle.ended", "once_bitten", 3),  # F05: the retry is not written
    ("rabbitmq.retry.copied", "once_bitten", 3),  # confirmed; the job it came from comes again beside it
    ("rabbitmq.bury.written", "fail", 3),  # F04: the letter is confirmed, and its job is not acknowledged
]


@pytest.mark.parametrize(("point", "task", "starts"), STEPS)
async def test_death_at_a_point(node, tmp_path, point, task, starts):
    """F02–F05: a worker process ends between two steps; the next one goes on there, and no step is done twice."""
    play = RabbitPlay(node.url, tmp_path)
    assert starts - 1 <= await die_at_a_point(play, tmp_path, point, task) <= starts


async def test_frozen_for_longer_than_a_lease(node, tmp_path):
    """F07: a frozen worker's job is taken over after its heartbeats; awake again it settles nothing, and says so."""
    play = RabbitPlay(node.url, tmp_path, "min_queue_age=0.1&timeout=3&heartbeat=1")
    await freeze_for_longer_than_a_lease(play, tmp_path, takeover=15.0)


async def test_stopped_with_work_in_hand(node, tmp_path):
    """F08: after SIGTERM nothing new starts; what has not started is elsewhere within a second, without blame."""
    await stop_with_work_in_hand(RabbitPlay(node.url, tmp_path), tmp_path)


async def test_a_worker_outlasts_a_long_outage(node, tmp_path):
    """F22: a worker whose node is away for many attempts to connect lives, and goes on by itself when it is back."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        play = RabbitPlay(node.url, tmp_path)
        through = play.url.replace(f":{node.port}", f":{proxy.port}")
        async with play.app("client") as app, play.worker(tmp_path, "worker", through) as worker:
            await worker.says("ready")
            assert await (await app.tasks["work"].enqueue(1)).result(timeout=20) == 1
            await proxy.refuse()
            proxy.cut()
            await worker.says("broker lost")
            await anyio.sleep(4.0)  # pauses grow from a quarter of a second
            job = await app.tasks["work"].enqueue(2)
            await proxy.heal()
            assert await job.result(timeout=30) == 2
            assert worker.status is None


async def test_refused_and_unknown_hosts(node):
    """F40: a port without a listener and a host that does not exist are one clear error each, at once."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        await proxy.refuse()
        for place in (f"127.0.0.1:{proxy.port}", "host.invalid:5672"):
            with anyio.fail_after(8), pytest.raises(BrokerUnavailable, match="RabbitMQ"):
                async with open_backend(f"amqp://guest:guest@{place}/?timeout=1"):
                    pass


async def test_a_blocked_loop(node, tmp_path):
    """F13: a task that blocks the loop beyond lease and heartbeats keeps its job, and its worker says so, loudly."""
    play = RabbitPlay(node.url, tmp_path, "min_queue_age=0.1&timeout=3&heartbeat=1")
    async with play.app("client") as app, play.worker(tmp_path, "blocked") as blocked:
        await blocked.says("ready")
        job = await app.tasks["block"].enqueue(4.0)
        await until(lambda: play.count("start") == 1, "a start")
        async with play.running("heir"):
            await job.outcome(timeout=20)
            await until(lambda: play.count("event", name="loop.blocked") >= 1, "an alarm")
            await play.check()
    assert [entry.who for entry in play.merged().entries if entry.kind == "settled"] == ["blocked"]
    assert not play.count("event", name="job.lost")


#: Ways to die, the statuses of processes that do, and the kind of queue; a classic one does not count hand-outs.
DEATHS = [
    ("killed left crashed", [-signal.SIGKILL, 1, -signal.SIGSEGV], "quorum"),
    ("killed", [-signal.SIGKILL] * 3, "classic"),
]


@pytest.mark.parametrize(("ways", "expected", "kind"), DEATHS, ids=["quorum", "classic"])
async def test_poison_is_buried_and_other_jobs_run(node, tmp_path, ways, expected, kind):
    """F10–F12: a job that kills its worker is dead after three starts, however it does it; nine beside it are done."""
    play = RabbitPlay(node.url, tmp_path, f"min_queue_age=0.1&timeout=3&queue_type={kind}")
    async with play.app("client") as app:
        poison = await app.tasks["kill"].enqueue(ways)
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(9)])
        statuses = []
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
            # Besides the poison's own two: those that had returned and were not settled when the poison killed.
            report = await play.check(attempts=3, duplicates_allowed=2 + len(jobs))
    assert statuses == expected
    assert list((await letter_reasons(play)).values()) == ["poison"]
    assert sum(entry.kind == "start" for entry in report.histories[poison.id]) == 3
    for job in jobs:
        assert {entry.facts["attempt"] for entry in report.histories[job.id] if entry.kind == "start"} == {1}


async def test_workers_that_die_leave_no_consumer(node):
    """F17: connections that end without a word take their consumers and channels with them."""
    async with open_backend(f"{node.url}?min_queue_age=0.1") as backend:
        for _ in range(8):
            async with (
                open_backend(f"{node.url}?min_queue_age=0.1") as other,
                other.consume(["crowd"], lease=5) as source,
            ):
                with anyio.move_on_after(0.05):
                    await source.receive(1)
                (await other._connections.consuming.open()).abort("for this test")
        async with backend.consume(["crowd"], lease=5):
            consumers = await node.control("-q", "list_consumers")
            assert "tc.q.crowd" not in consumers, consumers
        await backend.admin.delete("crowd")
