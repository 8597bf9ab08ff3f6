"""Several Redis servers: a replica is promoted, sentinels name another primary, slots of a cluster move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from taskcore import App, BrokerUnavailable, EnqueueRefused, EnqueueUncertain
from taskcore.adapters import open_backend
from taskcore.backend import Backend, Duplicate, Outgoing, Stored, Uncertain
from taskcore.faults import RedisCluster, RedisReplicated, RedisSentinel, RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK
from tests.support.real import require
from tests.support.redis_play import SHORT_TIMEOUTS, Play, send, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


@asynccontextmanager
async def producing(app: App, pause: float = 0.005) -> AsyncIterator[list[int]]:
    """Enqueue all the time; yield the jobs that were answered with OK."""
    stored: list[int] = []
    going = True

    async def produce() -> None:
        number = 0
        while going:
            stored.extend(await send(app, [number]))
            number += 1
            await anyio.sleep(pause)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        try:
            yield stored
        finally:
            going = False


# ── replicas ─────────────────────────────────────────────────────────────────────────────────────


async def test_confirmed_jobs_survive_a_promotion():
    """F30: with ?wait=1 nothing that was answered with Stored is lost by a promotion; the rest was Uncertain."""
    async with RedisReplicated(kind=require(RedisServer)) as redis:
        async with open_backend(redis.url + "?wait=1&wait_timeout=1500ms") as backend:
            for number in range(40):
                [answer] = await backend.publish([Outgoing("q", f"{number}", b"%d" % number)])
                assert type(answer) is Stored
            redis.partition()
            late = await backend.publish([Outgoing("q", f"{number}", b"%d" % number) for number in range(40, 60)])
        assert {type(answer) for answer in late} == {Uncertain}
        assert "0 of 1 replicas confirmed" in late[0].why
        redis.primary.kill()
        promoted = await redis.promote()
        async with open_backend(promoted.url) as backend, backend.consume(["q"], lease=30.0) as source:
            got: set[bytes] = set()
            while len(got) < 40:
                with anyio.fail_after(5):
                    batch = await source.receive(100)
                got |= {one.envelope for one in batch}
                await source.settle([(one, ACK) for one in batch])
            assert got == {b"%d" % number for number in range(40)}
            again = await backend.publish([Outgoing("q", f"{number}", b"%d" % number) for number in range(30, 60)])
            assert [type(answer) for answer in again] == [Duplicate] * 10 + [Stored] * 20


async def test_a_repeated_publish_waits_for_replicas_too():
    """F30: the replicas confirm a known id as well, before a repeated publish is answered as stored."""
    async with (
        RedisReplicated(kind=require(RedisServer)) as redis,
        open_backend(redis.url + "?wait=1&wait_timeout=200ms") as backend,
    ):
        job = Outgoing("q", "1", b"x")
        redis.partition()
        assert [type(one) for one in await backend.publish([job])] == [Uncertain]
        assert [type(one) for one in await backend.publish([job])] == [Uncertain]
        await redis.heal()
        await redis.caught_up()
        assert [type(one) for one in await backend.publish([job])] == [Duplicate]


async def test_a_user_who_may_not_wait(shared: RedisServer):
    """With ?wait, a user without the right to WAIT is refused at the start, and not by a later enqueue."""
    await command(shared.port, "ACL", "SETUSER", "hasty", "on", ">pw", "~*", "&*", "+@all", "-wait")
    url = shared.url.replace("redis://", "redis://hasty:pw@")
    async with open_backend(url):
        pass
    with pytest.raises(BrokerUnavailable, match="this user may not do that"):
        async with open_backend(url + "?wait=1"):
            pass


async def test_too_few_replicas():
    """A primary that has too few replicas to be safe refuses, and says so; nothing is stored."""
    async with RedisReplicated(
        kind=require(RedisServer), config={"min-replicas-to-write": 1, "min-replicas-max-lag": 1}
    ) as redis:
        play = Play(redis.url)
        async with play.running("worker", lease=5.0) as app:
            with anyio.fail_after(10):
                while not await again(app, 1):
                    pass  # on a busy machine a replica lags at first
            number = 2
            redis.replicas[0].kill()
            with anyio.fail_after(10):
                while await again(app, number):
                    number += 1
            with pytest.raises(EnqueueRefused, match="too few replicas"):
                await app.tasks["work"].enqueue(number)
            await redis.replicas[0].restart()
            with anyio.fail_after(10):
                while not await again(app, 1000):
                    pass
            await play.check()


async def again(app: App, number: int) -> bool:
    """Try to enqueue after a little while; whether it went well."""
    await anyio.sleep(0.05)
    try:
        await app.tasks["work"].enqueue(number)
    except (BrokerUnavailable, EnqueueRefused, EnqueueUncertain):
        return False
    return True


# ── sentinels ────────────────────────────────────────────────────────────────────────────────────


async def test_a_failover_under_load():
    """Clients and workers follow a failover by themselves; with ?wait=1 no job that was answered is lost."""
    async with RedisSentinel(kind=require(RedisServer), replicas=2) as redis:
        play = Play(redis.url)
        url = redis.url + SHORT_TIMEOUTS + "&wait=1&wait_timeout=300ms"
        async with play.app("client", url) as client, play.running("worker", redis.url + SHORT_TIMEOUTS, lease=3.0):
            async with producing(client) as stored:
                await until(lambda: len(stored) >= 100, "a hundred jobs")
                await redis.failover()
                before = len(stored)
                await until(lambda: len(stored) >= before + 100, "and a hundred more", within=30)
            report = await play.check(duplicates_allowed=100, time_limit=20.0)
        assert len(report.histories) >= len(stored) >= 200
        assert play.count("event", name="broker.back") >= 1


async def test_a_primary_that_hangs():
    """A frozen primary is replaced; when it wakes up it is a replica, and no client writes to it any more."""
    async with RedisSentinel(kind=require(RedisServer)) as redis:
        play, old = Play(redis.url), redis.primary
        async with play.running("worker", redis.url + SHORT_TIMEOUTS, lease=3.0) as app:
            await send(app, range(20))
            await play.quiet()
            await redis.caught_up()
            old.pause()
            with anyio.fail_after(40):
                while not await again(app, 100):
                    pass
            old.resume()
            await anyio.sleep(0.5)
            await send(app, range(200, 230))
            await play.check(duplicates_allowed=5, time_limit=20.0)
    assert play.count("settled", verdict="bury") == 0, "a job was blamed for verdicts that went to the old primary"


# ── a cluster ────────────────────────────────────────────────────────────────────────────────────


async def test_slots_that_move_under_load():
    """While the slot of a busy queue moves from node to node, no job is lost or doubled, and it goes on afterwards."""
    async with RedisCluster(kind=require(RedisServer)) as cluster:
        play = Play(cluster.url)
        slot = f"{{{play.queue}}}"
        async with (
            play.app("client", cluster.url + SHORT_TIMEOUTS) as client,
            play.running("worker", cluster.url + SHORT_TIMEOUTS, lease=5.0),
        ):
            async with producing(client) as stored:
                await until(lambda: len(stored) >= 50, "fifty jobs")
                first = await cluster.owner(slot)
                for to in ((first + 1) % 3, (first + 2) % 3):
                    await cluster.begin_move(slot, to)
                    await cluster.move_keys(slot, to, limit=1)
                    await anyio.sleep(0.3)  # half-way moved: neither node has everything
                    await cluster.move_keys(slot, to)
                    await cluster.end_move(slot, to)
                    before = len(stored)
                    await until(lambda: len(stored) >= before + 50, "and fifty more", within=20)  # noqa: B023
            report = await play.check(duplicates_allowed=20, time_limit=20.0)
        assert len(report.histories) >= len(stored) >= 150


async def test_half_way_moved():
    """While a slot is half-way moved, verbs on several keys fail plainly, in time, and do nothing; then they work."""
    async with (
        RedisCluster(kind=require(RedisServer)) as cluster,
        open_backend(cluster.url + SHORT_TIMEOUTS) as backend,
        backend.consume(["q"], lease=30.0) as source,
    ):
        await backend.publish([Outgoing("q", f"{number}", b"%d" % number) for number in range(5)])
        [held] = await source.receive(1)
        to = (await cluster.owner("{q}") + 1) % 3
        await cluster.begin_move("{q}", to)
        assert await cluster.move_keys("{q}", to, limit=1) == 1
        verbs = (
            lambda: backend.publish([Outgoing("q", "new", b"x")]),
            lambda: source.settle([(held, ACK)]),
            lambda: source.receive(5),
            lambda: backend.admin.stats(["q"]),
        )
        for verb in verbs:
            with anyio.fail_after(5), pytest.raises(BrokerUnavailable, match="being moved"):
                await verb()
        await cluster.move_keys("{q}", to)
        await cluster.end_move("{q}", to)
        assert await source.settle([(held, ACK)]) == []
        with anyio.fail_after(10):
            rest = await source.receive(10)
        assert [one.envelope for one in rest] == [b"1", b"2", b"3", b"4"]
        assert [type(one) for one in await backend.publish([Outgoing("q", "new", b"x")])] == [Stored]


async def test_queues_on_several_nodes():
    """A worker on queues that live on different nodes gets the jobs of all of them, within milliseconds, also idle."""
    async with RedisCluster(kind=require(RedisServer)) as cluster:
        names = [f"queue-{number}" for number in range(12)]
        owners = {await cluster.owner(f"{{{name}}}") for name in names}
        assert owners == {0, 1, 2}
        async with open_backend(cluster.url) as backend, backend.consume(names, lease=30.0) as source:
            await backend.publish([Outgoing(name, name, name.encode()) for name in names])
            got: list[bytes] = []
            while len(got) < len(names):
                with anyio.fail_after(5):
                    batch = await source.receive(5)
                got += [one.envelope for one in batch]
                await source.settle([(one, ACK) for one in batch])
            assert got == [name.encode() for name in names], "earlier queues come first"
            took: list[float] = []

            async def wait() -> None:
                batch = await source.receive(5)
                took.append(anyio.current_time() - sent)
                await source.settle([(one, ACK) for one in batch])

            for name in names:
                async with anyio.create_task_group() as group:
                    group.start_soon(wait)
                    await anyio.sleep(0.05)  # it is waiting by then
                    sent = anyio.current_time()
                    await backend.publish([Outgoing(name, f"{name}-again", b"x")])
            assert sorted(took)[len(names) // 2] < 0.1
            assert sorted(await backend.admin.queues()) == sorted(names)


async def test_a_node_that_is_gone():
    """When a node is gone the queues of the others go on; its own come back with it."""
    async with RedisCluster(kind=require(RedisServer), config={"cluster-require-full-coverage": "no"}) as cluster:
        names = [f"queue-{number}" for number in range(12)]
        owners = {name: await cluster.owner(f"{{{name}}}") for name in names}
        gone = owners[names[0]]
        other = next(name for name in names if owners[name] != gone)
        async with (
            open_backend(cluster.url + SHORT_TIMEOUTS) as backend,
            backend.consume([other], lease=30.0) as source,
        ):
            await backend.publish([Outgoing(names[0], "1", b"x"), Outgoing(other, "warm", b"warm")])
            await source.settle([(one, ACK) for one in await source.receive(1)])
            cluster.servers[gone].kill()
            answer = await publish(backend, names[0])
            assert answer in {"Uncertain", "BrokerUnavailable"}
            await command(cluster.servers[owners[other]].port, "PING")
            with anyio.fail_after(10):
                while await publish(backend, other) != "Stored":
                    pass
                assert (await source.receive(1))[0].envelope == b"y"
            await cluster.servers[gone].restart()
            await cluster.agreed()
            with anyio.fail_after(10):
                while await publish(backend, names[0]) not in {"Stored", "Duplicate"}:
                    pass


async def publish(backend: Backend, queue: str) -> str:
    """Publish one job after a short wait, and name the answer."""
    await anyio.sleep(0.05)
    try:
        [answer] = await backend.publish([Outgoing(queue, f"{queue}-y", b"y")])
    except BrokerUnavailable:
        return "BrokerUnavailable"
    return type(answer).__name__
