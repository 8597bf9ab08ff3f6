"""Three servers, three replicas: what one of them may do without a single confirmed job being lost (F31)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Backend, Outgoing, Stored
from taskcore.faults import NatsCluster, NatsServer
from taskcore.lifecycle import ACK
from taskcore.store import ABSENT, Conflict
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.slow]

QUEUE = "cluster"
STREAM = f"taskcore-q-{QUEUE}"


@pytest.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    """Run three servers of the newest version."""
    require(NatsServer)
    async with NatsCluster() as cluster:
        yield cluster


async def survive(cluster: NatsCluster, trouble: Callable[[], Awaitable[None]]) -> None:
    """Publish and take jobs during the trouble; every confirmed job has to come, whatever happens."""
    confirmed: set[bytes] = set()
    seen: set[bytes] = set()
    over = anyio.Event()

    async def publish(backend: Backend) -> None:
        number = 0
        while not over.is_set():
            jobs = [Outgoing(QUEUE, f"j{number + index}", b"%d" % (number + index)) for index in range(20)]
            try:
                answers = await backend.publish(jobs)
            except BrokerUnavailable:
                await anyio.sleep(0.1)
                continue
            confirmed.update(job.envelope for job, answer in zip(jobs, answers, strict=True) if answer == Stored())
            number += len(jobs)
            await anyio.sleep(0.02)

    async def work(backend: Backend) -> None:
        async with backend.consume([QUEUE], lease=5.0) as source:
            while True:
                try:
                    batch = await source.receive(10)
                    seen.update(delivery.envelope for delivery in batch)
                    await source.settle([(delivery, ACK) for delivery in batch])
                except BrokerUnavailable:  # perhaps settled, perhaps not: then they come again
                    await anyio.sleep(0.1)

    url = f"{cluster.url}/?replicas=3"
    async with open_backend(url) as sender, open_backend(url) as worker:
        await sender.publish([Outgoing(QUEUE, "first", b"first")])
        await cluster.current(STREAM)
        async with anyio.create_task_group() as group:
            group.start_soon(publish, sender)
            group.start_soon(work, worker)
            await anyio.sleep(0.5)
            await trouble()
            after = len(seen)
            with anyio.fail_after(40):
                while len(seen) < after + 100:  # noqa: ASYNC110 - work goes on
                    await anyio.sleep(0.05)
            over.set()
            with anyio.fail_after(40):
                while not confirmed <= seen:  # noqa: ASYNC110 - two tasks write these sets
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()
    assert len(confirmed) > 100


async def test_a_server_is_killed(cluster: NatsCluster) -> None:
    """One that does not lead the queue is killed: work goes on, nothing is lost."""

    async def kill() -> None:
        leader = await cluster.leader(STREAM)
        next(server for server in cluster.servers if server is not leader).kill()

    await survive(cluster, kill)


async def test_the_leader_is_killed(cluster: NatsCluster) -> None:
    """The one that leads the queue is killed, and comes back: another leads, nothing is lost."""

    async def kill() -> None:
        leader = await cluster.leader(STREAM)
        leader.kill()
        await anyio.sleep(2)
        await leader.restart()

    await survive(cluster, kill)


async def test_a_rolling_restart(cluster: NatsCluster) -> None:
    """Each server is stopped and started in turn, as for an upgrade: nothing is lost."""

    async def roll() -> None:
        for server in cluster.servers:
            await server.restart()
            await cluster.settled()
            await cluster.current(STREAM)

    await survive(cluster, roll)


async def test_a_store_survives_its_leader(cluster: NatsCluster) -> None:
    """A record that was written is there, with its version, when another server leads."""
    url = f"{cluster.url}/?replicas=3"
    async with open_store(url) as store:
        version = await store.put("key", b"value", expect=ABSENT, keep=60.0)
        await cluster.current("taskcore-store")
        (await cluster.leader("taskcore-store")).kill()
        with anyio.fail_after(30):
            while True:
                try:
                    record = await store.get("key")
                    answer = await store.put("key", b"newer", expect=version, keep=60.0)
                    break
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
        assert record is not None
        assert (record.value, record.version) == (b"value", version)
        assert not isinstance(answer, Conflict)
