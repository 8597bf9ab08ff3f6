"""PostgresServer: started, killed, frozen, wiped, and gone afterwards, with all of its processes."""

from __future__ import annotations

from pathlib import Path

import anyio
import psycopg
import pytest

from taskcore.faults import PostgresServer
from taskcore.faults.postgres import _children
from tests.stores.sql.conftest import anyio_backend, postgres  # noqa: F401 - fixtures
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def count(url: str) -> int:
    """Count the rows."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


async def test_start_kill_stop_and_wipe():
    """What was committed survives a kill and a stop; a wiped disk has nothing; nothing is left at the end."""
    async with require(PostgresServer)() as server:
        folder = server.data.parent
        assert server.url.endswith(f":{server.port}/postgres")
        assert server.version[0].isdigit()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")

        server.kill()
        assert not server.running
        assert not await server._answers()
        await server.start()
        assert count(server.url) == 1
        await server.restart()
        assert count(server.url) == 1

        server.pause()
        assert server.running
        assert not await server._answers()
        server.resume()
        assert await server._answers()

        await server.restart(wipe=True)
        with pytest.raises(psycopg.errors.UndefinedTable):
            count(server.url)
        family = _children(server._child.pid) if server._child else []
        assert family
    assert not folder.exists()
    with anyio.fail_after(10):
        while any(alive(pid) for pid in family):  # noqa: ASYNC110 - a process sends no event
            await anyio.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether it runs; a dead one may wait for its parent."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def test_a_connection_does_not_survive_a_kill():
    """A killed server's sessions end with it, even those that are in the middle of something."""
    async with require(PostgresServer)() as server, await psycopg.AsyncConnection.connect(server.url) as connection:
        await connection.execute("SELECT 1")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
