"""Watching records in Redis: nothing is missed whatever the connection does, and nothing is left of a watch."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.faults import ChaosProxy, RedisServer
from taskcore.faults.resp import command
from taskcore.store import ANY, Write
from taskcore.stores.redis import RedisStore, watches
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Run a Redis to mistreat."""
    async with require(RedisServer)() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    """Open a store beside it, whose connections stay whole."""
    async with RedisStore(server.url) as store:
        yield store


async def channels(server: RedisServer) -> int:
    """Return the number of subscribed channels."""
    return len(await command(server.port, "PUBSUB", "CHANNELS", "*"))


async def write(store: RedisStore, key: str, value: bytes) -> None:
    """Write, whatever is there."""
    await store.put(key, value, expect=ANY, keep=60.0)


async def latest(records: AsyncIterator, value: bytes, within: float = 20.0) -> None:
    """Wait until a watch shows this."""
    with anyio.fail_after(within):
        async for record in records:
            if record.value == value:
                return


async def test_one_connection_for_all(server: RedisServer, store: RedisStore):
    """Many watches share one connection, see their own records only, and leave no subscription behind."""
    async with RedisStore(server.url) as watcher, AsyncExitStack() as exits:
        before = len((await command(server.port, "CLIENT", "LIST", "TYPE", "pubsub")).splitlines())
        watches = [await exits.enter_async_context(watcher.watch(f"k{number}")) for number in range(50)]
        twice = await exits.enter_async_context(watcher.watch("k0"))
        assert len((await command(server.port, "CLIENT", "LIST", "TYPE", "pubsub")).splitlines()) == before + 1
        assert await channels(server) == 50
        await store.put_many([Write(key=f"k{number}", value=b"%d" % number, keep=60.0) for number in range(50)])
        for number, records in enumerate(watches):
            assert (await anext(records)).value == b"%d" % number
        assert (await anext(twice)).value == b"0"
        await exits.aclose()
        with anyio.fail_after(5):
            while await channels(server):  # noqa: ASYNC110 - the server sends no event
                await anyio.sleep(0.01)
        async with watcher.watch("k1") as records:
            assert (await anext(records)).value == b"1"


async def test_entering_and_leaving_at_once(server: RedisServer, store: RedisStore):
    """A watch that is entered while another one on its record leaves misses nothing."""
    async with RedisStore(server.url) as watcher:
        for number in range(100):
            async with anyio.create_task_group() as group:

                async def brief() -> None:
                    with anyio.move_on_after(0.0003):
                        async with watcher.watch("k"):
                            await anyio.sleep(0.0001)

                group.start_soon(brief)
                group.start_soon(brief)
                async with watcher.watch("k") as records:
                    await write(store, "k", b"%d" % number)
                    await latest(records, b"%d" % number, within=5)


async def test_a_slow_reader_sees_the_latest(server: RedisServer, store: RedisStore):
    """A reader that looks rarely may miss records, never the last one, and never sees an older one after a newer."""
    seen: list[int] = []

    async def writing() -> None:
        for number in range(500):
            await write(store, "k", b"%d" % number)

    async with (
        RedisStore(server.url) as watcher,
        watcher.watch("k") as records,
        anyio.create_task_group() as group,
    ):
        group.start_soon(writing)
        with anyio.fail_after(20):
            async for record in records:
                seen.append(int(record.value))
                await anyio.sleep(0.002)
                if seen[-1] == 499:
                    break
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("how", ["cut", "restart", "black hole", "killed by the server"])
async def test_nothing_is_missed(server: RedisServer, store: RedisStore, how: str, monkeypatch: pytest.MonkeyPatch):
    """What is written while the connection is away is seen when it is back."""
    monkeypatch.setattr(watches, "PING_AFTER_SILENCE", 0.3)
    async with ChaosProxy("127.0.0.1", server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0?timeout=500ms&connect_timeout=500ms"
        async with RedisStore(url) as watcher, watcher.watch("a") as first, watcher.watch("b") as second:
            for turn in (b"1", b"2"):
                if how == "cut":
                    await proxy.refuse()
                    proxy.cut()
                elif how == "black hole":
                    proxy.black_hole()
                elif how == "restart":
                    server.kill()
                    await server.restart()
                else:
                    await command(server.port, "CLIENT", "KILL", "TYPE", "pubsub")
                with anyio.fail_after(10):
                    while True:
                        try:
                            await write(store, "a", turn)
                            break
                        except BrokerUnavailable:
                            await anyio.sleep(0.02)
                await write(store, "b", turn)
                if how in {"cut", "black hole"}:
                    await anyio.sleep(0.5)
                    await proxy.heal()
                await latest(first, turn)
                await latest(second, turn)
                await write(store, "a", b"live " + turn)
                await latest(first, b"live " + turn)


async def test_entering_while_it_is_away(server: RedisServer):
    """Entering a watch fails at once if the server cannot be reached, and works when it can."""
    async with RedisStore(server.url) as store:
        async with store.watch("k"):
            pass
        server.kill()
        for _ in range(3):
            with anyio.fail_after(4), pytest.raises(BrokerUnavailable):
                async with store.watch("k"):
                    pass
        await server.restart()
        with anyio.fail_after(10):
            while True:
                try:
                    async with store.watch("k") as records:
                        await write(store, "k", b"1")
                        await latest(records, b"1")
                        break
                except BrokerUnavailable:
                    await anyio.sleep(0.05)


async def test_a_closed_store(server: RedisServer):
    """A watch that is open when its store is closed ends with an error."""
    store = RedisStore(server.url)
    await store.__aenter__()
    async with anyio.create_task_group() as group:
        ended = anyio.Event()

        async def wait() -> None:
            async with store.watch("k") as records:
                group.start_soon(close)
                with pytest.raises(BrokerUnavailable, match="closed"):
                    await anext(records)
            ended.set()

        async def close() -> None:
            await anyio.sleep(0.02)
            await store.__aexit__(None, None, None)

        group.start_soon(wait)
        with anyio.fail_after(5):
            await ended.wait()


async def test_ten_thousand_watches(server: RedisServer, store: RedisStore):
    """Ten thousand watches are entered in seconds, need less than two kilobytes each, and all see their record."""
    async with RedisStore(server.url) as watcher, AsyncExitStack() as exits:
        async with watcher.watch("warm"):
            pass
        gc.collect()
        tracemalloc.start()
        began = anyio.current_time()
        watches = [watcher.watch(f"k{number}") for number in range(10_000)]
        async with anyio.create_task_group() as group:
            for watch in watches:
                group.start_soon(watch.__aenter__)
        entered = anyio.current_time() - began
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for watch in watches:
            exits.push_async_exit(watch.__aexit__)
        assert size / 10_000 < 2000
        assert entered < 30
        for start in range(0, 10_000, 500):
            await store.put_many(
                [Write(key=f"k{number}", value=b"%d" % number, keep=60.0) for number in range(start, start + 500)]
            )
        with anyio.fail_after(30):
            for number, watch in enumerate(watches):
                assert (await anext(aiter(watch))).value == b"%d" % number


async def test_an_idle_store_is_silent(server: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch):
    """An unused store sends nothing; one with a watch sends a PING now and then."""

    async def processed() -> int:
        text = (await command(server.port, "INFO", "stats")).decode()
        return int(text.split("total_commands_processed:")[1].split()[0])

    await write(store, "k", b"1")
    async with store.watch("k"):
        pass
    await anyio.sleep(0.1)
    before = await processed()
    await anyio.sleep(1.0)
    assert await processed() == before + 1  # our own question

    monkeypatch.setattr(watches, "PING_AFTER_SILENCE", 0.2)
    async with RedisStore(server.url + "?timeout=200ms") as brief, brief.watch("k"):
        await anyio.sleep(0.1)
        before = await processed()
        await anyio.sleep(1.0)
        assert 2 <= await processed() - before - 1 <= 5
