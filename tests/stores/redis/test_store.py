"""The Redis store at its seam: the whole suite of stores on each kind of server, and what is special about it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from taskcore import InvalidURL
from taskcore.conformance import Check, run_check
from taskcore.conformance.checks import STORE_CHECKS
from taskcore.conformance.harness import Harness
from taskcore.errors import UnreadableRecord
from taskcore.faults import RedisCluster, RedisSentinel, RedisServer, ValkeyServer
from taskcore.faults.redis_cluster import slot_of
from taskcore.faults.resp import command
from taskcore.store import ABSENT, ANY, Conflict, Record, Write
from taskcore.stores.redis import RedisStore
from taskcore.stores.redis.batches import SCRIPT_BYTES, SCRIPT_WRITES, _chunks
from taskcore.stores.redis.layout import GROUP_COUNT, GROUPS, SLOTS, RecordNames, group_of, versions
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

KINDS = {"redis": RedisServer, "valkey": ValkeyServer, "sentinel": RedisSentinel, "cluster": RedisCluster}


@contextmanager
def running(name: str) -> Iterator[str]:
    """Run servers as long as the context lasts; yield their URL."""
    require(ValkeyServer if name == "valkey" else RedisServer)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(KINDS[name]()) as server:
        yield server.url


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run each kind of server in turn."""
    with running(request.param) as url:
        yield url


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Run one Redis."""
    require(RedisServer)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(RedisServer()) as server:
        yield server


@pytest.fixture
async def store(url: str):
    """Open a store on a server with no records."""
    async with RedisStore(url) as store:
        yield store


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.name)
async def test_conformance(check: Check, url: str):
    """The store keeps every promise of the suite, and leaves nothing."""
    left: list[str] = []
    finding = await run_check(check, lambda: Harness.at("memory://", store=url), left=left)
    assert (finding.standing, finding.why, left) == ("kept", "", [])


async def test_writers_race(store: RedisStore, url: str):
    """Of many writers on several connections that expect the same version, one wins each round; no write is lost."""
    async with RedisStore(url) as second, RedisStore(url) as third:
        await store.put("counter", b"0", expect=ANY, keep=60.0)

        async def add(one: RedisStore) -> None:
            for _ in range(20):
                while True:
                    record = await one.get("counter")
                    assert record is not None
                    more = b"%d" % (int(record.value) + 1)
                    if not isinstance(await one.put("counter", more, expect=record.version, keep=60.0), Conflict):
                        break

        async with anyio.create_task_group() as group:
            for one in (store, second, third):
                group.start_soon(add, one)
                group.start_soon(add, one)
        record = await store.get("counter")
        assert record is not None
        assert record.value == b"120"


async def test_a_big_batch(store: RedisStore):
    """More writes than fit into one script call, and more bytes, are answered in order; a key may come twice."""
    many = [Write(key=f"big/{number % 900}", value=b"%d" % number, keep=60.0) for number in range(SCRIPT_WRITES * 4)]
    answers = await store.put_many(many)
    assert len(set(answers)) == len(many)
    assert await store.get("big/5") == Record(b"905", answers[905])
    assert await store.get("big/899") == Record(b"899", answers[899])

    heavy = [Write(key=f"heavy/{number}", value=b"x" * (SCRIPT_BYTES // 3), keep=60.0) for number in range(8)]
    assert not any(isinstance(answer, Conflict) for answer in await store.put_many(heavy))
    found = [await store.get(write.key) for write in heavy]
    assert all(record is not None and record.value == heavy[0].value for record in found)


async def test_many_records_are_read_in_order(store: RedisStore):
    """``get_many`` answers for each key, in order, wherever it lives; a missing record is None."""
    keys = [f"many/{number}" for number in range(300)]
    await store.put_many([Write(key=key, value=key.encode(), expect=ANY, keep=60.0) for key in keys[::2]])
    found = await store.get_many([*reversed(keys), keys[0]])
    assert [record and record.value.decode() for record in found] == [
        key if int(key.partition("/")[2]) % 2 == 0 else None for key in [*reversed(keys), keys[0]]
    ]
    assert await store.get_many([]) == []


async def test_many_reads_are_one_exchange(server: RedisServer):
    """``get_many`` on one server takes one round trip; a record of another type is an error."""
    async with RedisStore(server.url) as store:
        await store.get("a")
        before = await command(server.port, "INFO", "stats")
        await store.get_many([f"one/{number}" for number in range(100)])
        reads = [
            int(info.split(b"total_reads_processed:")[1].split()[0])
            for info in (before, await command(server.port, "INFO", "stats"))
        ]
        assert reads[1] - reads[0] <= 4
        await command(server.port, "LPUSH", store._names("one/7"), "x")
        with pytest.raises(UnreadableRecord, match="not a record"):
            await store.get_many(["one/1", "one/7"])
        await command(server.port, "DEL", store._names("one/7"))


async def test_a_batch_may_expect_what_it_wrote_itself(store: RedisStore):
    """Writes to one record happen in the order of the batch."""
    old = await store.put("twice", b"0", expect=ANY, keep=60.0)
    first, second, third = await store.put_many(
        [
            Write(key="twice", value=b"1", expect=old, keep=60.0),
            Write(key="twice", value=b"2", expect=old, keep=60.0),
            Write(key="twice", value=None, expect=ANY),
        ]
    )
    assert isinstance(second, Conflict)
    assert second.current == Record(b"1", first)
    assert third == first
    assert await store.get("twice") is None


async def test_deletes(store: RedisStore):
    """A delete answers with the version it removed, or with what is there instead."""
    version = await store.put("gone", b"1", expect=ABSENT, keep=60.0)
    [kept] = await store.put_many([Write(key="gone", value=None, expect=ABSENT)])
    assert kept == Conflict(Record(b"1", version))
    assert not await store.delete("gone", expect="")
    assert await store.put_many([Write(key="gone", value=None, expect=version)]) == [version]
    assert await store.put_many([Write(key="gone", value=None, expect=version)]) == [Conflict(None)]
    assert await store.put_many([Write(key="gone", value=None, expect=ABSENT)]) == [""]
    assert not await store.delete("gone", expect=ANY)


@pytest.mark.parametrize("expect", ["*", "-", "=", "", 17, "a b", "ä"])
async def test_strange_versions_are_never_there(store: RedisStore, expect: str | int):
    """A version of any shape is compared and not interpreted."""
    await store.put("strange", b"b", expect=ANY, keep=60.0)
    assert isinstance(await store.put("strange", b"x", expect=expect, keep=60.0), Conflict)
    assert isinstance(await store.put("nothing", b"x", expect=expect, keep=60.0), Conflict)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1e-9, 1e15, 1e300, math.inf])
async def test_strange_times(store: RedisStore, keep: float):
    """A time that is over ends a record at once, and one that is longer than Redis can count is for ever."""
    answer = await store.put("times", b"x", expect=ANY, keep=keep)
    assert not isinstance(answer, Conflict)
    await anyio.sleep(0.01)
    assert (await store.get("times") is None) == (keep < 1)


async def test_calls_at_the_same_time_travel_together(server: RedisServer):
    """A hundred coroutines that read and write need a few commands, not hundreds, and each gets its own answer."""
    async with RedisStore(server.url) as store:

        async def one(number: int) -> None:
            version = await store.put(f"n/{number}", b"%d" % number, expect=ABSENT, keep=60.0)
            assert await store.get(f"n/{number}") == Record(b"%d" % number, version)

        before = await calls(server, "evalsha")
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        assert await calls(server, "evalsha") - before < 10


async def calls(server: RedisServer, name: str) -> int:
    """Count the calls of a command."""
    text = (await command(server.port, "INFO", "commandstats")).decode()
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in text.splitlines() if f"cmdstat_{name}:" in line)


async def test_a_lost_script_is_sent_again(server: RedisServer):
    """After SCRIPT FLUSH, as after a restart, writes go on."""
    async with RedisStore(server.url) as store:
        await command(server.port, "SCRIPT", "FLUSH")
        assert not isinstance(await store.put("k", b"1", expect=ANY, keep=60.0), Conflict)


async def test_flushed(server: RedisServer):
    """After FLUSHALL all records are gone, and no version that was given comes again."""
    async with RedisStore(server.url) as store:
        old = await store.put("k", b"1", expect=ANY, keep=None)
        await command(server.port, "FLUSHALL")
        assert await store.get("k") is None
        assert await store.put("k", b"2", expect=old, keep=60.0) == Conflict(None)
        assert await store.put("k", b"2", expect=ABSENT, keep=60.0) != old


@pytest.mark.parametrize("made", [("LPUSH", "x"), ("SET", "hello"), ("SET", "hello world"), ("SET", "")])
async def test_a_value_that_is_no_record(server: RedisServer, made: tuple[str, str]):
    """A key of ours that holds something else is named in the error, and harms no other record."""
    name = RecordNames("tc")("foreign")
    await command(server.port, "DEL", name)
    await command(server.port, made[0], name, made[1])
    async with RedisStore(server.url) as store:
        with pytest.raises(UnreadableRecord, match=r"tcr:\{\w+\}:foreign.*not a record of ours"):
            await store.get("foreign")
        with pytest.raises(UnreadableRecord, match="foreign"):
            await store.put("foreign", b"1", expect=ABSENT, keep=60.0)
        with pytest.raises(UnreadableRecord, match="foreign"):
            async with store.watch("foreign"):
                pass

        found: list[Record | UnreadableRecord | None] = []

        async def read(key: str) -> None:
            try:
                found.append(await store.get(key))
            except UnreadableRecord as error:
                found.append(error)

        version = await store.put("mine", b"1", expect=ANY, keep=60.0)
        async with anyio.create_task_group() as group:
            for key in ("mine", "foreign", "mine", "mine"):
                group.start_soon(read, key)
        assert found.count(Record(b"1", version)) == 3
        assert sum(isinstance(one, UnreadableRecord) for one in found) == 1
        with pytest.raises(UnreadableRecord, match="foreign"):
            await store.put_many(
                [Write(key="foreign", value=b"", expect=ABSENT, keep=9.0), Write(key="mine", value=b"2", keep=9.0)]
            )
        record = await store.get("mine")
        assert record is not None
        assert record.value == b"2"
        await command(server.port, "DEL", name)


async def test_prefixes_keep_applications_apart(server: RedisServer):
    """Two applications with two prefixes do not see each other's records, and every key begins with its prefix."""
    await command(server.port, "FLUSHALL")
    async with RedisStore(server.url + "?prefix=one") as one, RedisStore(server.url + "?prefix=two") as two:
        await one.put("k", b"1", expect=ABSENT, keep=60.0)
        assert await two.get("k") is None
        await two.put("k", b"2", expect=ABSENT, keep=60.0)
    keys = sorted(await command(server.port, "KEYS", "*"))
    assert [key[:6] for key in keys] == [b"oner:{", b"twor:{"]


def test_a_store_can_be_opened_again(server: RedisServer):
    """A store is made where no event loop runs, and may be opened again, on another one."""
    store = RedisStore(server.url)

    async def live(number: int) -> None:
        async with store, store.watch("life") as records:
            await store.put("life", b"%d" % number, expect=ANY, keep=60.0)
            while (await anext(records)).value != b"%d" % number:
                pass

    for number in range(2):
        anyio.run(live, number)


def test_an_unknown_option():
    """What a URL cannot mean is refused when the store is made."""
    with pytest.raises(InvalidURL, match="prefixx"):
        RedisStore("redis://localhost/0?prefixx=a")


def test_chunks():
    """No script call carries out too many writes, or brings too many bytes; none is empty, none is lost."""
    small = [Write(key=str(number), value=b"x") for number in range(2 * SCRIPT_WRITES + 1)]
    assert [len(chunk) for chunk in _chunks(small)] == [SCRIPT_WRITES, SCRIPT_WRITES, 1]
    sizes = [SCRIPT_BYTES + 1, 1, SCRIPT_BYTES // 2, SCRIPT_BYTES // 2, 0, SCRIPT_BYTES, SCRIPT_BYTES + 1]
    heavy = [Write(key=str(number), value=b"x" * size) for number, size in enumerate(sizes)]
    assert [[int(one.key) for one in chunk] for chunk in _chunks(heavy)] == [[0], [1, 2], [3, 4], [5], [6]]
    assert list(_chunks([])) == []


def test_groups():
    """Every node of a cluster has its share of the records, whatever their keys are."""
    assert len(set(GROUPS)) == GROUP_COUNT
    assert [slot_of("{" + tag + "}") * GROUP_COUNT // SLOTS for tag in GROUPS] == list(range(GROUP_COUNT))
    names = RecordNames("tc")
    for key in ("plain", "{braces}", "}{", "ä 任务", ""):
        assert slot_of(names(key)) == slot_of("{" + GROUPS[group_of(key)] + "}")
    counts = [0] * GROUP_COUNT
    for number in range(16_000):
        counts[group_of(f"job/{number}")] += 1
    assert min(counts) > 800


def test_versions():
    """No two connections give the same version, and a version is short."""
    one, two = versions(), versions()
    given = [next(source) for source in (one, two) for _ in range(1000)]
    assert len(set(given)) == 2000
    assert max(map(len, given)) < 20
