"""What a Redis says about itself, and what is made of it: answers that are made up, and servers of each setting."""

from __future__ import annotations

import time
from typing import Any

import pytest

from taskcore import BrokerUnavailable
from taskcore.connections.redis import Command, CommandRefused, RedisLink
from taskcore.connections.redis.diagnose import diagnose, examine
from taskcore.faults import RedisCluster, RedisReplicated, RedisServer, ValkeyServer
from taskcore.faults.resp import command
from taskcore.store import ANY
from taskcore.stores.redis import RedisStore
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, HasDiagnostics
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

GOOD = {
    "redis_version": "7.2.4", "aof_enabled": "1", "aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok", "maxmemory_policy": "noeviction", "maxmemory": "1000000", "used_memory": "1000",
    "role": "master", "connected_slaves": "0", "cluster_enabled": "0",
}  # fmt: skip
SETTINGS = {"appendfsync": "always", "save": "", "min-replicas-to-write": "0"}


async def diagnosed(
    config: dict[str, str] | None = None, *, forbidden: str = "", clock: float | None = None, **info: str
) -> Diagnosis:
    """Diagnose a server that is good, except for these answers."""
    settings = SETTINGS | (config or {})

    async def execute(command: Command) -> list[Any]:
        return [answer(*command)]

    def answer(*command: Any) -> Any:
        if command[0] in forbidden.split():
            raise CommandRefused("refused", kind="NOPERM", says="NOPERM this user has no permissions")
        match command[0]:
            case "INFO":
                return "".join(f"{name}:{value}\r\n" for name, value in (GOOD | info).items()).encode()
            case "CONFIG":
                return [word.encode() for name in command[2:] if name in settings for word in (name, settings[name])]
            case "TIME":
                now = time.time() if clock is None else clock
                return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]
            case "PING":
                return b"PONG"
        raise AssertionError(f"unexpected question {command}")

    return await examine(execute, now=time.time if clock is None else lambda: 1000.0)


def fact(diagnosis: Diagnosis, name: str) -> DiagnosticCheck:
    """Find the one check of this name."""
    [found] = [one for one in diagnosis.checks if one.name == name]
    return found


async def test_a_good_server():
    """A server that loses nothing has only good facts."""
    diagnosis = await diagnosed()
    assert {one.level for one in diagnosis.checks} == {"ok"}
    assert diagnosis.unsafe == ()
    assert diagnosis.server == "Redis 7.2.4"
    assert diagnosis.durability == "survives a killed Redis and a power cut"
    assert [one.name for one in diagnosis.checks] == [
        "version", "persistence", "eviction", "memory", "clock", "round trip",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("info", "config", "durability", "clauses"),
    [
        ({}, {"appendfsync": "everysec"}, "a power cut loses about the last second", ()),
        ({}, {"appendfsync": "no"}, "a power cut loses about the last 30 seconds", ("C1",)),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, "everything since the last snapshot (save 3600 1)", ("C1", "C5")),
        ({"aof_enabled": "0"}, {"save": ""}, "loses everything when Redis is killed or restarted", ("C1", "C5")),
    ],
)
async def test_persistence(info: dict, config: dict, durability: str, clauses: tuple):
    """The durability sentence and the clauses follow from how the server writes to its disk."""
    diagnosis = await diagnosed(config, **info)
    assert durability in diagnosis.durability
    assert fact(diagnosis, "persistence").clauses == clauses
    assert [one.name for one in diagnosis.unsafe] == ["persistence"] * bool(clauses)
    assert all(one.fix for one in diagnosis.unsafe)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl"])
async def test_eviction(policy: str):
    """A server that evicts anything keeps neither jobs nor records for sure."""
    found = fact(await diagnosed(maxmemory_policy=policy), "eviction")
    assert set(found.clauses) == {"C1", "C10"}
    assert policy in found.text


@pytest.mark.parametrize(
    ("info", "name", "level", "text"),
    [
        ({"redis_version": "6.2.14"}, "version", "fail", "too old"),
        ({"redis_version": "x"}, "version", "warn", "does not say"),
        ({"maxmemory": "0"}, "memory", "warn", "no limit"),
        ({"used_memory": "900000"}, "memory", "warn", "879 KiB of 977 KiB used"),
        ({"aof_last_write_status": "err"}, "disk", "fail", "aof_last_write_status"),
        ({"rdb_last_bgsave_status": "err"}, "disk", "fail", "cannot write"),
        ({"role": "slave", "master_host": "a", "master_port": "1"}, "replicas", "fail", "replica of a:1"),
        ({"connected_slaves": "2"}, "replicas", "warn", "2 connected"),
        ({"cluster_enabled": "1"}, "cluster", "ok", "cluster"),
    ],
)
async def test_single_facts(info: dict, name: str, level: str, text: str):
    """What is wrong is one fact, of the right level, with something to do about it."""
    diagnosis = await diagnosed(**info)
    found = fact(diagnosis, name)
    assert (found.level, text in found.text) == (level, True)
    assert found.fix or level == "ok" or text == "does not say"
    assert diagnosis.unsafe == ()


async def test_replicas_that_are_waited_for():
    """A primary that stops without replicas is no worry, and the durability still mentions failovers."""
    diagnosis = await diagnosed({"min-replicas-to-write": "1"}, connected_slaves="1")
    assert fact(diagnosis, "replicas").level == "ok"
    assert diagnosis.durability.endswith("a failover may lose what was not replicated yet")


@pytest.mark.parametrize(("clock", "level"), [(1000.4, "ok"), (1003.0, "warn"), (990.0, "warn")])
async def test_clocks(clock: float, level: str):
    """A clock that differs by more than a second is worth a warning, in either direction."""
    found = fact(await diagnosed(clock=clock), "clock")
    assert found.level == level
    assert ("behind" if clock < 1000 else "ahead") in found.text


async def test_forbidden_questions_are_unknown_checks():
    """Questions that a managed service forbids become facts called unknown, not errors, and not good news."""
    diagnosis = await diagnosed(forbidden="CONFIG")
    assert "appendfsync" in fact(diagnosis, "unknown").text
    assert "unknown" in diagnosis.durability
    diagnosis = await diagnosed(forbidden="CONFIG INFO TIME PING")
    assert {"aof_enabled", "maxmemory_policy", "role"} <= set(
        fact(diagnosis, "unknown").text.replace(",", " ").replace(":", " ").split()
    )
    assert diagnosis.durability.startswith("unknown")
    assert not any(one.name == "clock" for one in diagnosis.checks)


async def test_unreachable():
    """A server that cannot be reached is no diagnosis."""

    async def execute(command: Command) -> list[Any]:
        raise BrokerUnavailable("the server is gone")

    with pytest.raises(BrokerUnavailable, match="the server is gone"):
        await examine(execute)


# ── real servers ─────────────────────────────────────────────────────────────────────────────────


async def of(url: str) -> Diagnosis:
    """Diagnose a real server."""
    async with RedisLink(url) as link:
        return await diagnose(link)


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer], ids=["redis", "valkey"])
async def test_real_servers(kind: type[RedisServer]):
    """A real server with safe settings is safe; its name and version are right."""
    async with require(kind)(config={"appendfsync": "always", "maxmemory": "100mb"}) as server:
        diagnosis = await of(server.url)
        assert diagnosis.server == f"{'Valkey' if kind is ValkeyServer else 'Redis'} {server.version}"
        assert diagnosis.durability == "survives a killed Redis and a power cut"
        assert [(one.name, one.level) for one in diagnosis.checks if one.level != "ok"] == []
        assert fact(diagnosis, "memory").text.endswith("of 100 MiB used")


@pytest.mark.parametrize(
    ("config", "unsafe", "durability"),
    [
        ({"appendonly": "no"}, ["persistence"], "loses everything when Redis is killed or restarted"),
        ({"appendonly": "no", "save": "60 1"}, ["persistence"], "since the last snapshot (save 60 1)"),
        ({"appendfsync": "no"}, ["persistence"], "30 seconds"),
        ({"appendfsync": "everysec"}, [], "the last second"),
        ({"maxmemory-policy": "volatile-lru"}, ["eviction"], ""),
        ({"maxmemory-policy": "allkeys-lru", "appendonly": "no"}, ["persistence", "eviction"], ""),
    ],
)
async def test_real_settings(config: dict, unsafe: list[str], durability: str):
    """Each dangerous setting of a real server is found."""
    async with require(RedisServer)(config=config) as server:
        diagnosis = await of(server.url)
        assert [one.name for one in diagnosis.unsafe] == unsafe
        assert durability in diagnosis.durability
        assert fact(diagnosis, "memory").level == "warn"


async def test_a_user_who_may_not_ask():
    """On a real server that forbids CONFIG the rest is still found."""
    async with require(RedisServer)() as server:
        await command(server.port, "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
        diagnosis = await of(f"redis://app:pw@127.0.0.1:{server.port}")
        assert "CONFIG" in fact(diagnosis, "unknown").text
        assert fact(diagnosis, "eviction").level == "ok"


async def test_real_replication():
    """A primary lists its replicas; a replica fails, because it takes no writes."""
    async with RedisReplicated(kind=require(RedisServer)) as redis:
        diagnosis = await of(redis.url)
        assert fact(diagnosis, "replicas").level == "warn"
        assert "failover" in diagnosis.durability
        assert fact(await of(redis.replicas[0].url), "replicas").level == "fail"


async def test_a_real_cluster():
    """All nodes are asked; what is true of all is said once, what is true of one with its address."""
    async with RedisCluster(kind=require(RedisServer), config={"maxmemory": "100mb"}) as cluster:
        await command(cluster.servers[1].port, "CONFIG", "SET", "appendfsync", "no")
        async with RedisStore(cluster.url) as store:
            assert isinstance(store, HasDiagnostics)
            await store.put("k", b"1", expect=ANY, keep=60.0)
            diagnosis = await store.diagnose()
        assert diagnosis.server.endswith(", 3 nodes")
        [unsafe] = diagnosis.unsafe
        assert unsafe.text.startswith(f"127.0.0.1:{cluster.servers[1].port}: ")
        assert fact(diagnosis, "cluster").text == "a node of a cluster"
        assert "last second" in diagnosis.durability
        assert "30 seconds" in diagnosis.durability
