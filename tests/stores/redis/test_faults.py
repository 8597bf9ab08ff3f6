"""The Redis store when things go wrong: lost replies, silence, full memory, lost rights, a failover, moving slots."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import BrokerUnavailable
from taskcore.faults import ChaosProxy, RedisCluster, RedisReplicated, RedisSentinel, RedisServer
from taskcore.faults.resp import command
from taskcore.store import ABSENT, ANY, Conflict, Record, Write
from taskcore.stores.redis import RedisStore
from taskcore.stores.redis.layout import RecordNames
from tests.support.real import require
from tests.support.starving import Starving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SHORT_TIMEOUTS = "?timeout=300ms&connect_timeout=300ms"  #: so that a verb ends within 0.9 s
VERB_TIMEOUT = 0.9 + 1.5  #: seconds, and what a busy machine may add

VERBS: dict[str, Callable[[RedisStore], Awaitable[Any]]] = {
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", b"x", expect=ANY, keep=60.0),
    "delete": lambda store: store.delete("k", expect=ANY),
    "put_many": lambda store: store.put_many([Write(key=f"k{number}", value=b"x", keep=60.0) for number in range(600)]),
    "watch": lambda store: store.watch("k").__aenter__(),
}
every_verb = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Run a Redis to mistreat."""
    async with require(RedisServer)() as server:
        yield server


@asynccontextmanager
async def behind_proxy(
    server: RedisServer, options: str = SHORT_TIMEOUTS
) -> AsyncIterator[tuple[RedisStore, ChaosProxy]]:
    """Open a store whose connections can be broken."""
    async with (
        ChaosProxy("127.0.0.1", server.port) as proxy,
        RedisStore(f"redis://127.0.0.1:{proxy.port}/0{options}") as store,
    ):
        yield store, proxy


async def eventually(store: RedisStore, verb: str = "get", within: float = 20.0) -> Any:
    """Return the answer, as soon as there is one again."""
    with anyio.fail_after(within):
        while True:
            try:
                return await VERBS[verb](store)
            except BrokerUnavailable:
                await anyio.sleep(0.05)


# ── connections ──────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_reply_is_not_repeated(server: RedisServer):
    """A write whose reply is lost was carried out once, and the error says that it is unknown."""
    async with behind_proxy(server) as (store, proxy):
        first = await store.put("k", b"1", expect=ABSENT, keep=60.0)
        proxy.cut_before(1)
        with pytest.raises(BrokerUnavailable):
            await store.put("k", b"2", expect=first, keep=60.0)
        record = await store.get("k")
        assert record is not None
        assert record.value == b"2"
        assert isinstance(await store.put("k", b"3", expect=first, keep=60.0), Conflict)
        assert not isinstance(await store.put("k", b"3", expect=record.version, keep=60.0), Conflict)


@every_verb
async def test_silence(server: RedisServer, verb: str):
    """Behind a half-open connection every verb ends within its time limit, and works when the network does again."""
    async with behind_proxy(server) as (store, proxy):
        await VERBS[verb](store)
        proxy.black_hole()
        with anyio.fail_after(VERB_TIMEOUT), pytest.raises(BrokerUnavailable):
            await VERBS["get" if verb == "watch" else verb](store)
        with anyio.fail_after(VERB_TIMEOUT), pytest.raises(BrokerUnavailable):
            async with store.watch("another"):
                pass
        await proxy.heal()
        await eventually(store, verb)


async def test_a_frozen_server(server: RedisServer):
    """Every call to a frozen server ends in time; afterwards each caller gets its own reply."""
    ended: list[float] = []
    async with RedisStore(server.url + SHORT_TIMEOUTS) as store:
        await store.put_many([Write(key=f"n{number}", value=b"%d" % number, keep=60.0) for number in range(500)])
        server.pause()

        async def call(number: int) -> None:
            began, key = anyio.current_time(), f"n{number % 500}"
            with pytest.raises(BrokerUnavailable):
                await (store.get(key) if number % 2 else store.delete(key, expect=""))
            ended.append(anyio.current_time() - began)

        async with Starving() as starving, anyio.create_task_group() as group:
            for number in range(6000):
                group.start_soon(call, number)
        server.resume()
        assert len(ended) == 6000
        assert max(ended) < 2 * 0.9 + 1.5 + starving.seconds
        await eventually(store)
        await each_gets_its_own(store)


async def each_gets_its_own(store: RedisStore) -> None:
    """Check that each caller gets its own reply."""

    async def ask(number: int) -> None:
        record = await store.get(f"n{number}")
        assert record is not None
        assert record.value == b"%d" % number

    async with anyio.create_task_group() as group:
        for number in range(500):
            group.start_soon(ask, number)


async def test_cancelled_calls(server: RedisServer):
    """Calls that are cancelled at any moment leave the others, and those that come later, their own replies."""
    dice = random.Random(7)
    async with behind_proxy(server, "") as (store, proxy):
        await store.put_many([Write(key=f"n{number}", value=b"%d" % number, keep=60.0) for number in range(500)])
        proxy.delay(0.001, jitter=0.001)

        async def impatient(number: int) -> None:
            with anyio.move_on_after(dice.uniform(0, 0.01)):
                if number % 3:
                    record = await store.get(f"n{number}")
                    assert record is not None
                    assert record.value == b"%d" % number
                else:
                    await store.put("other", b"x", expect=ANY, keep=60.0)

        for _ in range(5):
            async with anyio.create_task_group() as group:
                for number in range(0, 500, 5):
                    group.start_soon(impatient, number)
        proxy.delay(0)
        await each_gets_its_own(store)
        assert proxy.accepted <= 4, "a cancelled call cost a connection"


async def test_a_restart(server: RedisServer):
    """Records survive a killed server; calls meanwhile fail at once, later ones work without a new store."""
    async with RedisStore(server.url + SHORT_TIMEOUTS) as store:
        version = await store.put("k", b"1", expect=ANY, keep=60.0)
        server.kill()
        for verb in VERBS.values():
            with anyio.fail_after(VERB_TIMEOUT), pytest.raises(BrokerUnavailable, match=r"cannot reach|did not answer"):
                await verb(store)
        await server.restart()
        assert await eventually(store) == Record(b"1", version)
        assert not isinstance(await store.put("k", b"2", expect=version, keep=60.0), Conflict)


async def test_a_connection_that_was_closed_meanwhile(server: RedisServer):
    """A server that restarts between two calls causes no error: nothing had been sent."""
    async with RedisStore(server.url) as store:
        version = await store.put("k", b"1", expect=ANY, keep=60.0)
        await store.get("k")
        await server.restart()
        assert await store.get("k") == Record(b"1", version)
        assert not isinstance(await store.put("k", b"2", expect=version, keep=60.0), Conflict)


async def test_no_server():
    """A store that cannot connect says so, with the address and what to do."""
    async with require(RedisServer)() as server:
        url = server.url
    with pytest.raises(BrokerUnavailable, match=r"redis-cli -h 127.0.0.1"):
        async with RedisStore(url):
            pass


# ── servers that refuse ──────────────────────────────────────────────────────────────────────────


async def fill(store: RedisStore, key: str, value: bytes) -> tuple[int, BrokerUnavailable]:
    """Write until it is refused: how often that went well, and the refusal."""
    for written in range(10_000):
        try:
            await store.put(key.format(written), value, expect=ANY, keep=60.0)
        except BrokerUnavailable as error:
            return written, error
    raise AssertionError("10,000 writes and nothing was refused")


async def test_full_memory():
    """A full server refuses writes, with a clear text; reading and deleting go on, and make room."""
    async with (
        require(RedisServer)(config={"maxmemory": "4mb"}) as server,
        RedisStore(server.url) as store,
    ):
        written, error = await fill(store, "n{}", b"x" * 20_000)
        assert "memory is full" in str(error)
        assert 20 < written < 1000
        assert await store.get(f"n{written}") is None
        assert await store.get("n0") is not None
        deletes = [Write(key=f"n{number}", value=None) for number in range(written)]
        assert all(isinstance(answer, str) and answer for answer in await store.put_many(deletes))
        assert not isinstance(await store.put("n0", b"x", expect=ABSENT, keep=60.0), Conflict)


async def test_a_full_store_has_a_reserve_for_the_ends_of_jobs():
    """Beyond maxmemory goes only what jobs need to end, and no further than a twentieth, however much that is."""
    async with require(RedisServer)() as server, RedisStore(server.url) as store:
        version = await store.put("held", b"1", expect=ANY, keep=60.0)
        assert not isinstance(version, Conflict)
        await command(server.port, "SET", "other", b"x" * 20_000_000)
        limit = await used_memory(server.port) - 200_000
        await command(server.port, "CONFIG", "SET", "maxmemory", limit)
        with pytest.raises(BrokerUnavailable, match="memory is full"):
            await store.put("other", b"1", expect=ABSENT, keep=60.0)
        ordinary = Write(key="held", value=b"2", expect=version)
        with pytest.raises(BrokerUnavailable, match="memory is full"):
            await store.put_many([ordinary])
        [again] = await store.put_many([msgspec.structs.replace(ordinary, reserve=True)])
        assert not isinstance(again, Conflict)
        [answer] = await store.put_many([msgspec.structs.replace(ordinary, reserve=True)])
        assert isinstance(answer, Conflict)  # the reserve changes nothing about what is expected
        crowd = [Write(key=f"n{number}", value=b"x" * 1_000, reserve=True) for number in range(5_000)]
        with pytest.raises(BrokerUnavailable, match="memory is full"):
            await store.put_many(crowd)
        written = [key.key for key in crowd if await store.get(key.key) is not None]
        assert 100 < len(written) < 1_000
        assert await used_memory(server.port) < limit * 1.05


async def used_memory(port: int) -> int:
    """Ask the server how much memory it uses."""
    return int((await command(port, "INFO", "memory")).split(b"used_memory:")[1].split()[0])


async def test_a_disk_that_cannot_be_written():
    """A server that cannot save refuses writes, with a clear text, and can be read."""
    async with (
        require(RedisServer)(config={"appendonly": "no", "save": "3600 1"}) as server,
        RedisStore(server.url) as store,
    ):
        await store.put("k", b"1", expect=ANY, keep=60.0)
        shutil.rmtree(server.data)
        await command(server.port, "BGSAVE")
        _, error = await fill(store, "k", b"2")
        assert "cannot write to its disk" in str(error)
        assert await store.get("k") is not None


async def test_a_replica():
    """A replica refuses writes, with a clear text, and is not asked again on the same connection."""
    async with (
        RedisReplicated(kind=require(RedisServer)) as redis,
        behind_proxy(redis.replicas[0]) as (store, proxy),
    ):
        for _ in range(2):
            before = proxy.accepted
            with pytest.raises(BrokerUnavailable, match="it is a replica"):
                await store.put("k", b"1", expect=ANY, keep=60.0)
            assert proxy.accepted == before + 1  # each new connection asks for the primary
        await redis.promote()
        assert not isinstance(await store.put("k", b"1", expect=ANY, keep=60.0), Conflict)


async def test_passwords():
    """With a wrong password, or none, the text says so, and does not contain it."""
    async with require(RedisServer)(config={"requirepass": "sesame"}) as server:
        for login in ("", ":wrong-secret@", "who:wrong-secret@"):
            with pytest.raises(BrokerUnavailable, match="password are missing or wrong") as failure:
                async with RedisStore(f"redis://{login}127.0.0.1:{server.port}/0"):
                    pass
            assert "wrong-secret" not in str(failure.value)
        async with RedisStore(f"redis://:sesame@127.0.0.1:{server.port}/0") as store:
            assert await store.get("k") is None


#: What a user needs that may do what a store does, and nothing else.
RIGHTS = "~tcr:* &tcr:* +info +ping +get +set +getrange +del +eval +evalsha +publish +subscribe +unsubscribe"


async def test_the_rights_that_are_needed(server: RedisServer):
    """A user with these rights can use the store; without the right to publish, the text says what is missing."""
    await command(server.port, "ACL", "SETUSER", "worker", "on", ">pw", *RIGHTS.split())
    url = f"redis://worker:pw@127.0.0.1:{server.port}/0"
    async with RedisStore(url) as store:
        for verb in VERBS.values():
            await verb(store)
        async with store.watch("another") as records:
            await store.put("another", b"1", expect=ABSENT, keep=None)
            assert (await anext(records)).value == b"1"
    for lost in ("resetchannels", "-subscribe"):
        await command(server.port, "ACL", "SETUSER", "worker", lost)
        async with RedisStore(url) as store:
            with anyio.fail_after(2), pytest.raises(BrokerUnavailable, match="this user may not do that"):
                async with store.watch("k"):
                    pass


# ── several servers ──────────────────────────────────────────────────────────────────────────────


async def test_a_failover():
    """After a failover reads, writes and watches go on with the new primary, on the same store."""
    async with RedisSentinel(kind=require(RedisServer)) as redis, RedisStore(redis.url + SHORT_TIMEOUTS) as store:
        version = await store.put("k", b"1", expect=ANY, keep=None)
        await redis.caught_up()
        async with store.watch("watched") as records:
            await redis.failover()
            assert await eventually(store) == Record(b"1", version)
            assert not isinstance(await eventually(store, "put"), Conflict)
            await store.put("watched", b"new", expect=ANY, keep=60.0)
            with anyio.fail_after(20):
                assert (await anext(records)).value == b"new"


async def test_a_slot_that_moves():
    """While a slot moves from node to node, and afterwards, every verb does what it always does."""
    keys = [f"key/{number}" for number in range(60)]
    where = RecordNames("tc")(keys[0])
    async with RedisCluster(kind=require(RedisServer)) as cluster, RedisStore(cluster.url) as store:
        to = (await cluster.owner(where) + 1) % 3

        async def get_all() -> list[Record | None]:
            found: dict[str, Record | None] = {}

            async def get(key: str) -> None:
                found[key] = await store.get(key)

            async with anyio.create_task_group() as group:
                for key in keys:
                    group.start_soon(get, key)
            return [found[key] for key in keys]

        async def all_works(harness: str) -> None:
            old = await get_all()
            writes = [
                Write(key=key, value=harness.encode(), expect=ABSENT if record is None else record.version, keep=60.0)
                for key, record in zip(keys, old, strict=True)
            ]
            answers = await store.put_many([*writes, Write(key=f"{keys[0]}/{harness}", value=b"", keep=60.0)])
            assert not any(isinstance(answer, Conflict) for answer in answers)
            again = await store.put_many(writes)
            assert all(isinstance(answer, Conflict) for answer in again)
            assert await get_all() == [Record(harness.encode(), answer) for answer in answers[:-1]]
            async with store.watch(keys[0]) as records:
                assert (await anext(records)).value == harness.encode()
                await store.put(keys[0], b"!", expect=ANY, keep=60.0)
                with anyio.fail_after(5):
                    assert (await anext(records)).value == b"!"

        await all_works("before")
        await cluster.begin_move(where, to)
        await all_works("begun")
        assert await cluster.move_keys(where, to, limit=1) == 1
        await all_works("half-way")
        await cluster.move_keys(where, to)
        await all_works("moved")
        await cluster.end_move(where, to)
        await all_works("ended")


async def test_a_node_that_is_gone():
    """Without one node the records of the others can be read and written, and the rest fails with a clear error."""
    async with (
        RedisCluster(kind=require(RedisServer), config={"cluster-require-full-coverage": "no"}) as cluster,
        RedisStore(cluster.url + SHORT_TIMEOUTS) as store,
    ):
        keys = [f"key/{number}" for number in range(60)]
        await store.put_many([Write(key=key, value=b"1", keep=60.0) for key in keys])
        gone = await cluster.owner(RecordNames("tc")(keys[0]))
        owners = {key: await cluster.owner(RecordNames("tc")(key)) for key in keys}
        cluster.servers[gone].kill()
        for key in keys:
            with anyio.fail_after(5):
                if owners[key] == gone:
                    with pytest.raises(BrokerUnavailable):
                        await store.get(key)
                else:
                    assert await store.get(key) is not None
        with anyio.fail_after(5), pytest.raises(BrokerUnavailable):
            await store.put_many([Write(key=key, value=b"2", keep=60.0) for key in keys])
