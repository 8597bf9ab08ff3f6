"""Redis is killed, frozen, restarted, wiped, full, or changes its password: jobs survive, and every answer is true."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App, BrokerUnavailable, Dead, EnqueueRefused
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, Bury, Reschedule
from tests.support.real import require, versions
from tests.support.redis_play import SHORT_TIMEOUTS, Play, send, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]
on_versions = pytest.mark.parametrize("own", **versions(RedisServer), indirect=True)


@asynccontextmanager
async def producing(app: App) -> AsyncIterator[list[int]]:
    """Enqueue all the time; yield the jobs that were answered with OK."""
    stored: list[int] = []
    going = True

    async def produce() -> None:
        number = 0
        while going:
            stored.extend(await send(app, [number]))
            number += 1
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        try:
            yield stored
        finally:
            going = False


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged as an error."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ── killed, restarted, frozen ────────────────────────────────────────────────────────────────────


@on_versions
async def test_killed_under_load(own: RedisServer, tmp_path: Path):
    """F18: killed three times under load and restarted with its append-only file: everything that was answered ends."""
    play, url = Play(own.url), own.url + SHORT_TIMEOUTS
    async with play.app("client", url) as client, play.worker(tmp_path, "w", url, lease=3.0, concurrency=10) as worker:
        await worker.says("ready")
        async with producing(client) as stored:
            for _ in range(3):
                before = len(stored)
                await until(lambda: len(stored) >= before + 50, "fifty more")  # noqa: B023
                own.kill()
                await own.restart()
            before = len(stored)
            await until(lambda: len(stored) >= before + 20, "and it goes on")
        report = await play.check(duplicates_allowed=30)
    assert len(stored) >= 170
    assert len(report.histories) >= len(stored)


async def test_restarted_gracefully(own: RedisServer):
    """F20: an ordinary restart in the middle of a thousand settlings loses nothing."""
    play = Play(own.url)
    async with (
        play.app("client") as client,  # with limits that a busy machine keeps: it sends before the fault
        play.running("worker", own.url + SHORT_TIMEOUTS, lease=5.0, concurrency=50),
    ):
        await client.enqueue_many([client.tasks["work"].call(number) for number in range(1000)])
        await until(lambda: play.count("settled") >= 200, "some jobs")
        await own.restart()
        report = await play.check(duplicates_allowed=1000 - play.count("settled"))
    assert len(report.histories) == 1000


@on_versions
async def test_frozen(own: RedisServer):
    """F21: while the server is frozen every call ends within its limit; when it goes on, so do all callers."""
    play = Play(own.url)
    async with play.running("worker", own.url + SHORT_TIMEOUTS, lease=10.0) as app:
        await send(app, range(5))
        await until(lambda: play.count("settled") == 5, "five jobs")
        own.pause()
        for _ in range(3):
            began = anyio.current_time()
            assert await send(app, [9]) == []
            assert anyio.current_time() - began < 0.4 + 0.4 + 1.2 + 1.5
        await until(lambda: play.count("event", name="broker.lost") >= 1, "the worker notices")
        own.resume()
        resumed = anyio.current_time()
        assert await send(app, [10, 11])
        await until(lambda: play.count("settled") >= 6, "work goes on", within=15)
        assert anyio.current_time() - resumed < 15
        await play.check()


async def test_away_for_long(own: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """F22: after an outage of many attempts the worker lives and goes on by itself."""
    from taskcore.worker import outages  # noqa: PLC0415 - its pauses are shortened

    monkeypatch.setattr(outages, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 0.05)
    play = Play(own.url)
    async with play.running("worker", own.url + SHORT_TIMEOUTS, lease=1.0) as app:
        await send(app, [1])
        await until(lambda: play.count("settled") == 1, "one job")
        own.kill()
        await anyio.sleep(3.0)
        await own.restart()
        assert await send(app, [2, 3, 4])
        await play.check()
    assert play.count("event", name="broker.lost") == play.count("event", name="broker.back") >= 1


# ── what is gone ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["flushed", "wiped"])
async def test_everything_is_gone(own: RedisServer, how: str, caplog: pytest.LogCaptureFixture):
    """F23: FLUSHALL, or a restart without data, under a worker: a loud alarm, and new jobs flow at once."""
    play = Play(own.url)
    async with play.running("worker", own.url + SHORT_TIMEOUTS, lease=2.0) as app:
        await send(app, range(3))
        await until(lambda: play.count("settled") == 3, "three jobs")
        await app.tasks["work"].using(delay=600.0).enqueue(99)
        if how == "flushed":
            await command(own.port, "FLUSHALL")
        else:
            await own.restart(wipe=True)
        await until(lambda: bool(alarms(caplog)), "an alarm", within=10)
        assert "has disappeared from Redis" in alarms(caplog)[0]
        assert await send(app, range(10, 20))
        await until(lambda: play.count("settled") >= 13, "new jobs flow")
    async with open_backend(own.url) as backend:
        assert await backend.admin.queues() == [play.queue]
    assert len(alarms(caplog)) <= 3, "one alarm, not one for each look"


async def test_gone_while_jobs_run(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """F23: jobs that run when everything is flushed end as lost, and the worker reports it."""
    play = Play(own.url)
    async with play.running("worker", lease=2.0) as app:
        await app.enqueue_many([app.tasks["work"].call(number, 0.5) for number in range(5)])
        await until(lambda: play.count("start") == 5, "five starts")
        await command(own.port, "FLUSHALL")
        await until(lambda: play.count("event", name="job.lost") == 5, "five lost leases")
        assert await send(app, [9])
        await until(lambda: play.count("settled") == 1, "a new job")
    assert any("has disappeared" in alarm or "was deleted" in alarm for alarm in alarms(caplog))


async def test_the_group_is_deleted(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """F24: a consumer group that is deleted under a worker is made anew: an alarm, nothing twice, nothing forgotten."""
    play = Play(own.url)
    stream = f"tc:{{{play.queue}}}:jobs"
    async with play.running("worker", lease=5.0, concurrency=5) as app:
        await app.enqueue_many([app.tasks["work"].call(number, 0.05) for number in range(60)])
        for count in (10, 30):
            await until(lambda: play.count("settled") >= count, "some jobs")  # noqa: B023
            await command(own.port, "XGROUP", "DESTROY", stream, "workers")
        report = await play.check()
        before = int((await command(own.port, "INFO", "stats")).split(b"total_commands_processed:")[1].split()[0])
        await anyio.sleep(1.0)
        after = int((await command(own.port, "INFO", "stats")).split(b"total_commands_processed:")[1].split()[0])
    assert len(report.histories) == 60
    assert any("group of queue" in alarm for alarm in alarms(caplog))
    assert after - before < 20, "the receiver does not spin afterwards"


# ── full ─────────────────────────────────────────────────────────────────────────────────────────


async def fill(port: int) -> None:
    """Let nothing be written any more: other data take all the memory there is."""
    used = int((await command(port, "INFO", "memory")).split(b"used_memory:")[1].split()[0])
    await command(port, "SET", "other", b"x" * 1_000_000)
    await command(port, "CONFIG", "SET", "maxmemory", used)


@on_versions
async def test_memory_is_full(own: RedisServer):
    """F28: with full memory an enqueue is refused, at once and plainly; every other verb does what it always does."""
    async with (
        open_backend(own.url) as backend,
        backend.consume(["q"], lease=0.5) as dead,
        backend.consume(["q"], lease=30.0) as source,
    ):
        await backend.publish([Outgoing("q", f"{number}", b"x" * 100) for number in range(30)])
        await backend.publish([Outgoing("q", "due", b"later", b"", 0.5)])
        lost = await dead.receive(5)
        held = await source.receive(10)
        await fill(own.port)
        [answer] = await backend.publish([Outgoing("q", "more", b"x")])
        assert "memory is full" in answer.why
        [answer] = await backend.publish([Outgoing("unheard of", "more", b"x")])
        assert "memory is full" in answer.why
        await anyio.sleep(0.7)  # leases of the first source are over, and something is due
        assert await source.extend(held) == []
        verdicts = [ACK, Reschedule(60.0, b"trail"), Reschedule(0.0, b"trail"), Bury("because", b"trail")]
        assert await source.settle(list(zip(held[:4], verdicts, strict=True))) == []
        assert await source.settle([(one, ACK) for one in held[4:]]) == []
        rest: list[Any] = []
        while len(rest) < 15 + 5 + 1 + 1:
            with anyio.fail_after(3):
                rest += await source.receive(10)
        assert sorted(one.redeliveries for one in rest) == [0] * 17 + [1] * len(lost)
        assert await backend.admin.remove("q", held[1].receipt.id.decode())
        [letter] = await backend.admin.letters("q", limit=10)
        assert (letter.reason, letter.trail, letter.envelope) == ("because", b"trail", b"x" * 100)
        assert await source.settle([(one, ACK) for one in rest]) == []
        [stats] = await backend.admin.stats(["q"])
        assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 1)
        assert await backend.admin.drop(letter.id)
        await command(own.port, "CONFIG", "SET", "maxmemory", 0)
        assert [type(one).__name__ for one in await backend.publish([Outgoing("q", "more", b"x")])] == ["Stored"]


async def test_workers_empty_a_full_server(own: RedisServer):
    """F28: enqueueing says TC203 while there is no room; workers go on, failures and dead letters included."""
    play = Play(own.url)
    async with play.app("client") as app:
        await app.enqueue_many([app.tasks["work"].call(number) for number in range(100)])
        for number in range(5):
            await app.tasks["fail"].enqueue(number)
            await app.tasks["once_bitten"].enqueue(number)
        await app.tasks["work"].using(delay=0.5).enqueue(1000)
        await fill(own.port)
        with pytest.raises(EnqueueRefused, match=r"TC203(.|\n)*memory is full"):
            await app.tasks["work"].enqueue(1)
        backend = open_backend(own.url)
        async with backend, App(own.url, store="none", lease=5.0) as plain:
            from tests.support.redis_play import declare  # noqa: PLC0415

            declare(plain, play.history, play.queue, "plain")
            async with plain.running():
                await play.quiet()
            assert (await backend.admin.stats([play.queue]))[0].dead == 5
        await command(own.port, "CONFIG", "SET", "maxmemory", 0)
        await play.check()


async def memory(port: int) -> int:
    """Ask the server how much memory it uses."""
    return int((await command(port, "INFO", "memory")).split(b"used_memory:")[1].split()[0])


async def test_jobs_with_results_and_keys_empty_a_full_server(own: RedisServer):
    """F28: jobs end although their results and keys are in the full server, and there is room again for new ones."""
    await command(own.port, "SET", "other", b"x" * 20_000_000)
    app = App(own.url)

    @app.task(queue="full")
    async def double(number: int, text: str) -> int:
        return 2 * number

    @app.task(queue="full", key="number")
    async def keyed(number: int, text: str) -> int:
        return 3 * number

    @app.task(queue="full", retry=2)
    async def fail(number: int) -> None:
        raise ValueError(number)

    async with app:
        jobs = await app.enqueue_many(double.call(number, "x" * 500) for number in range(3_000))
        jobs += await app.enqueue_many(keyed.call(number, "x" * 500) for number in range(300))
        bad = await fail.enqueue(1)
        before = await memory(own.port)
        await command(own.port, "CONFIG", "SET", "maxmemory", before - 200_000)
        with pytest.raises(EnqueueRefused, match="memory is full"):
            await double.enqueue(1, "x")
        async with app.running():
            with anyio.fail_after(30):
                results = [await job.result() for job in jobs]
                assert isinstance(await bad.outcome(), Dead)
        assert results == [2 * number for number in range(3_000)] + [3 * number for number in range(300)]
        assert await memory(own.port) < before - 200_000
        await double.enqueue(1, "x")


async def test_the_disk_is_full(caplog: pytest.LogCaptureFixture):
    """F26: a server that cannot write to its disk refuses, and says so; when it can again, all goes on by itself."""
    config = {"appendonly": "no", "save": "3600 1", "enable-protected-configs": "yes"}
    async with require(RedisServer)(config=config) as own:
        play = Play(own.url)
        async with play.running("worker", own.url + SHORT_TIMEOUTS, lease=3.0) as app:
            await send(app, range(5))
            await until(lambda: play.count("settled") == 5, "five jobs")
            await app.enqueue_many([app.tasks["work"].call(number, 0.3) for number in range(5, 10)])
            await until(lambda: play.count("start") == 10, "five more start")
            shutil.rmtree(own.data)
            await command(own.port, "BGSAVE")
            with pytest.raises(EnqueueRefused, match="cannot write to its disk"):
                await app.enqueue_many([app.tasks["work"].using(delay=0.1).call(number) for number in range(100, 9000)])
            await until(lambda: play.count("event", name="broker.lost") >= 1, "the worker notices")
            own.data.mkdir()
            await command(own.port, "CONFIG", "SET", "dir", str(own.data))
            await command(own.port, "BGSAVE")
            await until(lambda: play.count("event", name="broker.back") >= 1, "it goes on by itself")
            assert await send(app, [50])
            await play.check()


# ── passwords ────────────────────────────────────────────────────────────────────────────────────


async def test_the_password_changes(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """F44: a worker whose password stops working says why, does not spin, and goes on when it works again."""
    await command(own.port, "ACL", "SETUSER", "app", "on", ">secret-one", "~*", "&*", "+@all")
    play = Play(own.url)
    url = own.url.replace("redis://", "redis://app:secret-one@") + SHORT_TIMEOUTS
    async with play.running("worker", url, lease=2.0) as app:
        await send(app, [1])
        await until(lambda: play.count("settled") == 1, "one job")
        await command(own.port, "ACL", "SETUSER", "app", "resetpass", ">secret-two")
        await command(own.port, "CLIENT", "KILL", "USER", "app")
        await until(lambda: play.count("event", name="broker.lost") >= 1, "the worker notices")
        assert await send(app, [0]) == []  # on a connection that was killed
        with pytest.raises(BrokerUnavailable, match="user name or password are missing or wrong") as refused:
            await app.tasks["work"].enqueue(2)
        assert "secret-one" not in str(refused.value)
        before, began = time.process_time(), anyio.current_time()
        await anyio.sleep(1.0)
        assert (time.process_time() - before) / (anyio.current_time() - began) < 0.2
        await command(own.port, "ACL", "SETUSER", "app", "resetpass", ">secret-one")
        assert await send(app, [3])
        await until(lambda: play.count("event", name="broker.back") >= 1, "it works again")
        await play.check()
    assert not [record for record in caplog.records if "secret" in record.getMessage()]
