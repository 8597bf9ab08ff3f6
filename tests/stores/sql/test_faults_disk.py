"""A disk that fails when it is synced: nothing is confirmed that may not be there, and the error says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_store
from taskcore.faults import PostgresServer, WorkerProcess
from taskcore.store import ABSENT, Conflict, Write
from taskcore.stores.sql import PostgresStore
from tests.support.bad_disk import syncs_fail
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

RACER = Path(__file__).with_name("racer.py")


async def test_sqlite(tmp_path: Path):
    """F27: a commit that could not be synced is an error that names the disk; what was confirmed before is there."""
    url = f"sqlite:///{tmp_path}/r.db"
    async with open_store(url) as store:
        await store.put_many([Write(key="left", value=b"0"), Write(key="right", value=b"0")])
        async with WorkerProcess(RACER, url, "flood", folder=tmp_path) as writer:
            await writer.says("confirmed")
            async with syncs_fail(writer.pid):
                assert await writer.wait() == 1
            text = writer.output(lines=100_000)
        confirmed = [int(found) for found in re.findall(r"confirmed (\d+)", text)]
        assert "[TC201]" in text
        assert "disk I/O error" in text
        assert "the system's log" in text
        left, right = await store.get("left"), await store.get("right")
        assert left is not None
        assert right is not None
        assert left.value == right.value
        assert int(left.value) in (confirmed[-1], confirmed[-1] + 1)
        assert not isinstance(await store.put("left", b"alive", expect=left.version, keep=None), Conflict)


async def test_postgres():
    """F27: PostgreSQL ends rather than confirm; started again, on a disk that works, it has what it had confirmed."""
    async with require(PostgresServer)() as server:
        url = f"{server.url}?taskcore_timeout=1.5"
        confirmed = [f"k{number}" for number in range(20)]
        async with PostgresStore(url) as store:
            for key in confirmed:
                await store.put(key, b"1", expect=ABSENT, keep=None)
        async with syncs_fail(server.pid):
            with pytest.raises(BrokerUnavailable):
                await write_on_new_connections(url)
            with anyio.fail_after(20):
                while server.running:  # noqa: ASYNC110 - another process; it tries to recover, and gives up
                    await anyio.sleep(0.05)
        await server.restart()
        async with PostgresStore(url) as store:
            found = [await store.get(key) for key in confirmed]
            assert all(record is not None for record in found), f"lost {found.count(None)} of {len(found)}"
            assert not isinstance(await store.put("again", b"1", expect=ABSENT, keep=None), Conflict)


async def write_on_new_connections(url: str) -> None:
    """Write through processes of the server that were started just now."""
    async with PostgresStore(url) as store:
        await store.put("later", b"1", expect=ABSENT, keep=None)
