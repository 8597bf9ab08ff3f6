"""Counts that can be believed: a queue without a leader is not an empty one, and looking takes no job away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing
from taskcore.backends.rabbitmq import layout
from taskcore.faults import RabbitServer
from taskcore.lifecycle import ACK
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import held

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ON_NEWER = {"test_a_queue_whose_leader_is_away"}


@asynccontextmanager
async def leaderless(node: RabbitServer, queue: str) -> AsyncIterator[None]:
    """Suspend a queue's leader: every queue has none for a moment after its node has started."""
    leader = f"'%2F_{layout.job_queue(queue)}'"
    await node.control("-q", "eval", f"sys:suspend({leader}).")
    try:
        yield
    finally:
        await node.control("-q", "eval", f"sys:resume({leader}).")


async def test_a_queue_whose_leader_is_away(node: RabbitServer):
    """The server counts 0 in a queue whose leader has not recovered; the adapter waits for the true count."""
    async with open_backend(f"{node.url}?min_queue_age=0.1&timeout=20") as backend:
        await backend.publish([Outgoing("away", f"{number}", b"job") for number in range(5)])
        answers: list[Any] = []

        async def ask() -> None:
            answers.extend(await backend.admin.stats(["away"]))

        async with anyio.create_task_group() as group, leaderless(node, "away"):
            assert await backend._connections.admin.count(layout.job_queue("away")) == 0, "nothing to be tested here"  # type: ignore[attr-defined]
            group.start_soon(ask)
            await anyio.sleep(0.5)  # in which the server has said it again
            assert not answers
        assert answers[0].ready >= 1
        assert (await backend.admin.stats(["away"]))[0].ready == 5
        await backend.admin.delete("away")


async def test_a_count_that_is_unknown(node: RabbitServer):
    """A queue whose leader does not come back has no count: the call ends in its time, and says so (C22)."""
    async with open_backend(f"{node.url}?min_queue_age=0.1&timeout=1") as backend:
        await backend.publish([Outgoing("unknown", "1", b"job")])
        async with leaderless(node, "unknown"):
            began = anyio.current_time()
            with pytest.raises(BrokerUnavailable):
                await backend.admin.stats(["unknown"])
            assert anyio.current_time() - began < 4.0
        with anyio.fail_after(10):
            while (await backend.admin.stats(["unknown"]))[0].ready != 1:  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.05)
        await backend.admin.delete("unknown")


async def test_draining_a_queue_whose_leader_is_away(node: RabbitServer, tmp_path: Any):
    """Draining ends when the jobs are done, not when they cannot be counted."""
    play = RabbitPlay(node.url, tmp_path, "min_queue_age=0.1&timeout=20")
    async with play.app("client") as app:
        await app.enqueue_many([app.tasks["work"].call(number) for number in range(5)])
        drained = anyio.Event()

        async def drain() -> None:
            await app.drain(play.queue)
            drained.set()

        async with anyio.create_task_group() as group:
            async with leaderless(node, play.queue):
                group.start_soon(drain)
                await anyio.sleep(0.3)
                assert not drained.is_set()
            async with app.running():
                await drained.wait()
                assert play.count("effect") == 5


async def test_draining_sees_what_is_on_its_way(node: RabbitServer, tmp_path: Any):
    """A job that the server has sent and no worker has taken is counted; each time, not nearly each time."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.running("worker") as app:
        for number in range(100):
            await app.tasks["work"].enqueue(number)
            await app.drain(play.queue, timeout=5)
            assert play.count("effect") == number + 1, "drained, and not done"


async def test_a_job_that_arrives_during_the_check(node: RabbitServer, monkeypatch: pytest.MonkeyPatch):
    """A check whether a queue is empty returns a job that it finds at once."""
    async with held(f"{node.url}?min_queue_age=0.1", "looked") as (backend, source):
        await backend.publish([Outgoing("looked", f"{number}", b"%d" % number) for number in range(3)])
        admin = backend._connections.admin  # type: ignore[attr-defined]
        count = admin.count

        async def too_early(queue: str) -> int | None:
            monkeypatch.setattr(admin, "count", count)
            return 0

        monkeypatch.setattr(admin, "count", too_early)
        assert (await backend.admin.stats(["looked"]))[0].ready >= 1
        found: list[Any] = []
        with anyio.fail_after(5):
            while len(found) < 3:
                found += await source.receive(3)
        assert {one.envelope for one in found} == {b"0", b"1", b"2"}
        assert await source.settle([(one, ACK) for one in found]) == []
        assert (await backend.admin.stats(["looked"]))[0].ready == 0
        await backend.admin.delete("looked")
