"""Slow, split and flapping connections to a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.faults import ChaosProxy, PostgresServer
from taskcore.store import ANY
from taskcore.stores.sql import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def through(proxy: ChaosProxy, postgres: PostgresServer) -> str:
    """Make the URL of the store behind the proxy, with short time limits."""
    return f"{postgres.url.replace(f':{postgres.port}', f':{proxy.port}')}?taskcore_timeout=2"


async def test_every_byte_alone_and_late(postgres: PostgresServer):
    """F38, F39: with every byte in a packet of its own, and 20 ms of delay, records come back as they were."""
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy, PostgresStore(through(proxy, postgres)) as store:
        proxy.byte_by_byte()
        value = bytes(range(256)) * 4
        await store.put("split", value, expect=ANY, keep=60.0)
        record = await store.get("split")
        assert record is not None
        assert record.value == value
        await proxy.heal()
        proxy.delay(0.02, jitter=0.01)
        await store.put("split", b"late", expect=ANY, keep=60.0)
        record = await store.get("split")
        assert record is not None
        assert record.value == b"late"
        await store.delete("split", expect=ANY)


async def test_a_flapping_line(postgres: PostgresServer):
    """F41: cut again and again, writes go on between, and no descriptor, task or connection is left over."""
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy, PostgresStore(through(proxy, postgres)) as store:
        await store.put("flap", b"0", expect=ANY, keep=60.0)
        files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())  # noqa: PTH208 - numbers only
        for _ in range(30):
            with anyio.fail_after(10):
                while not await written(store):  # noqa: ASYNC110 - a server has no event
                    await anyio.sleep(0.01)
            proxy.cut()
        with anyio.fail_after(10):
            while not await written(store):  # noqa: ASYNC110 - a server has no event
                await anyio.sleep(0.01)
        assert proxy.connected <= 2
        assert len(os.listdir("/proc/self/fd")) <= files + 2  # noqa: PTH208 - numbers only
        assert len(asyncio.all_tasks()) <= tasks + 1
        await store.delete("flap", expect=ANY)


async def written(store: PostgresStore) -> bool:
    """Write once; tell whether that was confirmed."""
    try:
        await store.put("flap", b"1", expect=ANY, keep=60.0)
    except BrokerUnavailable:
        return False
    return True
