"""Waking and waiting on Redis: at once where there is work, seldom where there is none, one for each job."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Backend, Outgoing, Source
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, RELEASE, Reschedule
from tests.support.redis_play import Play, calls, held, key, send, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


# ── waking ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_idle_worker_starts_within_milliseconds(shared: RedisServer, tmp_path: Path):
    """A worker in another process that has been idle for seconds starts a job as soon as it is there."""
    play = Play(shared.url)
    async with play.app("client") as app, play.worker(tmp_path, "w", lease=60.0) as worker:
        await worker.says("ready")
        await send(app, [0])
        await until(lambda: play.count("end") == 1, "it is warm")
        took = []
        for number in range(1, 6):
            await anyio.sleep(3.0 if number == 1 else 0.6)
            sent = time.time()
            await send(app, [number])
            await until(lambda: play.count("start") == number + 1, "a start")  # noqa: B023
            took.append(max(entry.at for entry in play.merged().entries if entry.kind == "start") - sent)
        await play.check()
    assert sorted(took)[2] < 0.05, took
    assert max(took) < 0.5, took


async def test_one_job_wakes_one_worker(own: RedisServer):
    """Of twenty idle workers one is woken by a job; the other nineteen sleep on."""
    async with open_backend(own.url) as backend:
        got: list[str] = []

        async def work(source: Source) -> None:
            while True:
                batch = await source.receive(10)
                got.extend(one.receipt.id for one in batch)
                await source.settle([(one, ACK) for one in batch])

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(work, await _enter(group, backend))
            await until_idle(own.port, 20)
            rounds = 10
            before = await calls(own.port, "evalsha")
            began = anyio.current_time()
            for number in range(rounds):
                await backend.publish([Outgoing("q", f"{number}", b"x")])
                await until(lambda: len(got) == number + 1, "it is done")  # noqa: B023
            scripts = await calls(own.port, "evalsha") - before
            looks = 20 * (anyio.current_time() - began) / 2.5  # each source looks every 2.5 s
            group.cancel_scope.cancel()
    # For each job: publish, receive, settle, and the receive of the next waiting source.
    assert 3 * rounds <= scripts <= 5 * rounds + looks + 20


async def _enter(group: anyio.abc.TaskGroup, backend: Backend) -> Source:
    """Open a source that lives as long as the group."""
    async with anyio.create_task_group() as starting:
        sources: list[Source] = []

        async def live(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with backend.consume(["q"], lease=60.0) as source:
                sources.append(source)
                task_status.started()
                await anyio.sleep_forever()

        starting.start_soon(group.start, live)
    return sources[0]


async def until_idle(port: int, workers: int) -> None:
    """Wait until so many connections wait for a token."""
    with anyio.fail_after(10):
        while True:
            clients: bytes = await command(port, "CLIENT", "LIST")
            if clients.count(b"cmd=blpop") >= workers:
                return
            await anyio.sleep(0.02)


async def test_an_idle_worker_asks_seldom(own: RedisServer):
    """An idle worker costs the server at most five commands a second, and those of its scripts are counted."""
    play = Play(own.url)
    async with play.running("worker", lease=60.0) as app:
        await send(app, [1])
        await play.quiet()
        await anyio.sleep(0.5)
        before = await calls(own.port)
        await anyio.sleep(5.0)
        assert await calls(own.port) - before <= 5 * 5 + 1


async def test_never_more_than_one_token(own: RedisServer):
    """However much is published while no source waits, one token lies there; it is gone after the next look."""
    async with open_backend(own.url) as backend:
        for number in range(50):
            await backend.publish([Outgoing("q", f"{number}", b"x", b"", 60.0 * (number % 3 == 0))])
            assert await command(own.port, "LLEN", key("q", "wake")) == 1
        async with backend.consume(["q"], lease=30.0) as source:
            batch = await source.receive(100)
            await source.settle(
                [(one, RELEASE if index % 2 else Reschedule(0.0, b"")) for index, one in enumerate(batch)]
            )
            assert await command(own.port, "LLEN", key("q", "wake")) == 1
            while True:
                with anyio.move_on_after(0.5) as waiting:
                    await source.settle([(one, ACK) for one in await source.receive(100)])
                if waiting.cancelled_caught:
                    break
                assert await command(own.port, "LLEN", key("q", "wake")) <= 1


async def test_a_source_that_goes_wakes_the_next(shared: RedisServer):
    """A token that was popped by a source that left is not lost: the next source starts at once."""
    queue = "handover"
    async with held(shared.url, queue, lease=60.0) as (backend, patient):
        for number in range(5):
            async with anyio.create_task_group() as group, backend.consume([queue], lease=60.0) as leaving:
                group.start_soon(leaving.receive, 1)
                await anyio.sleep(0.05)
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(take_one, patient)
                await anyio.sleep(0.05)
                sent = anyio.current_time()
                await backend.publish([Outgoing(queue, f"{number}", b"x")])
            assert anyio.current_time() - sent < 0.5


async def take_one(source: Source) -> None:
    """Wait for a job and settle it."""
    [one] = await source.receive(10)
    await source.settle([(one, ACK)])
