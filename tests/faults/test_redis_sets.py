"""Redis with several servers, as the fault kit puts it together: replicas, sentinels, a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from taskcore import BrokerUnavailable
from taskcore.faults import RedisServer, ValkeyServer
from taskcore.faults.redis_cluster import SLOTS, RedisCluster, slot_of
from taskcore.faults.redis_sets import RedisReplicated, RedisSentinel
from taskcore.faults.resp import ErrorReply, command
from tests.backends.conftest import shared  # noqa: F401 - a fixture
from tests.backends.redis.conftest import anyio_backend, own  # noqa: F401 - fixtures
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(params=[RedisServer, ValkeyServer], ids=["redis", "valkey"])
def kind(request: pytest.FixtureRequest) -> type[RedisServer]:
    """Choose Redis, then Valkey."""
    return require(request.param)


async def redirect(port: int, *parts: Any) -> str:
    """Return the first word of the error that a server answers with; empty if the command succeeds."""
    try:
        await command(port, *parts)
    except ErrorReply as reply:
        return str(reply).partition(" ")[0]
    return ""


async def test_commands(kind: type[RedisServer]):
    """Every kind of answer comes back as it is; an error is raised; silence too."""
    async with kind() as server:
        value = bytes(range(256)) * 1000
        assert await command(server.port, "SET", "k", value) == b"OK"
        assert await command(server.port, "GET", "k") == value
        assert await command(server.port, "GET", "none") is None
        assert await command(server.port, "STRLEN", "k") == 256_000
        assert await command(server.port, "MGET", "none", "k") == [None, value]
        assert await command(server.port, "EVAL", "return {1, {'a', {}}}", 0) == [1, [b"a", []]]
        with pytest.raises(ErrorReply, match="WRONGTYPE"):
            await command(server.port, "LPUSH", "k", "x")
        server.pause()
        with pytest.raises(BrokerUnavailable, match="GET"):
            await command(server.port, "GET", "k", within=0.2)


async def test_a_replica_follows_and_is_promoted(kind: type[RedisServer]):
    """What the primary had when a replica last heard of it is there after its promotion, and no more."""
    async with RedisReplicated(kind=kind) as redis:
        [replica] = redis.replicas
        await command(redis.primary.port, "SET", "before", "1")
        await redis.caught_up()
        assert await redirect(replica.port, "SET", "x", "1") == "READONLY"

        redis.partition()
        await command(redis.primary.port, "SET", "during", "1")
        with pytest.raises(BrokerUnavailable, match="catches up"):
            await redis.caught_up(within=0.5)
        redis.primary.kill()
        assert await redis.promote() is replica
        assert redis.url == replica.url
        assert await command(replica.port, "MGET", "before", "during") == [b"1", None]
        assert await redirect(replica.port, "SET", "x", "1") == ""
        await replica.restart()
        assert await redirect(replica.port, "SET", "x", "2") == ""


async def test_a_partition_heals(kind: type[RedisServer]):
    """After a partition a replica gets what it missed."""
    async with RedisReplicated(kind=kind, replicas=2) as redis:
        redis.partition(1)
        await command(redis.primary.port, "SET", "during", "1")
        await redis.heal(1)
        await redis.caught_up()
        assert [await command(replica.port, "GET", "during") for replica in redis.replicas] == [b"1", b"1"]


async def test_sentinels_name_another_primary(kind: type[RedisServer]):
    """After a failover all sentinels name the server that was a replica, and it takes writes."""
    async with RedisSentinel(kind=kind) as redis:
        old, [new] = redis.primary, redis.replicas
        assert redis.url.startswith("redis+sentinel://127.0.0.1:")
        assert redis.url.count(",") == 2
        assert redis.url.endswith("/mymaster/0")
        await command(old.port, "SET", "k", "1")
        await redis.caught_up()
        assert await redis.failover() is new
        assert redis.primary is new
        assert await command(new.port, "GET", "k") == b"1"
        assert await redirect(new.port, "SET", "k", "2") == ""
        assert not old.running


def test_slots():
    """A key's slot is that of the text in its first braces, if there is any, as the specification has it."""
    assert slot_of("123456789") == 0x31C3
    assert slot_of("{user1000}.following") == slot_of("{user1000}.followers") == slot_of("user1000")
    assert slot_of("foo{}{bar}") == slot_of(b"foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")


async def test_a_slot_moves(kind: type[RedisServer]):
    """Servers answer for their own slots, redirect for others, and a slot moves with all its keys."""
    async with RedisCluster(kind=kind) as cluster:
        key = "{tag}1"
        owner = await cluster.owner(key)
        to = (owner + 1) % 3
        here, there = cluster.servers[owner].port, cluster.servers[to].port
        assert {await cluster.owner(slot) for slot in (0, SLOTS // 2, SLOTS - 1)} == {0, 1, 2}
        assert await command(here, "CLUSTER", "KEYSLOT", key) == slot_of(key)
        for number in range(250):
            await command(here, "SET", f"{{tag}}{number}", number)
        assert await redirect(there, "GET", key) == "MOVED"

        await cluster.move_slot(key, to)
        assert await cluster.owner(key) == to
        assert await command(there, "GET", key) == b"1"
        assert await command(there, "CLUSTER", "COUNTKEYSINSLOT", slot_of(key)) == 250
        assert await redirect(here, "GET", key) == "MOVED"


async def test_a_slot_moves_half_way(kind: type[RedisServer]):
    """While a slot moves, its owner answers for what it still has, and says ASK for what it has not."""
    async with RedisCluster(kind=kind) as cluster:
        owner = await cluster.owner("{tag}")
        to = (owner + 1) % 3
        here, there = cluster.servers[owner].port, cluster.servers[to].port
        for number in range(3):
            await command(here, "SET", f"{{tag}}{number}", number)

        await cluster.begin_move("{tag}", to)
        assert await command(here, "GET", "{tag}1") == b"1"
        assert await redirect(here, "SET", "{tag}new", "1") == "ASK"
        assert await redirect(there, "GET", "{tag}1") == "MOVED"

        assert await cluster.move_keys("{tag}", to, limit=2) == 2
        assert await redirect(here, "MGET", "{tag}0", "{tag}1", "{tag}2") == "TRYAGAIN"
        assert await cluster.move_keys("{tag}", to) == 1
        assert await redirect(here, "GET", "{tag}1") == "ASK"

        await cluster.end_move("{tag}", to)
        assert await command(there, "GET", "{tag}1") == b"1"
