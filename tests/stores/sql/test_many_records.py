"""Many new records in one call, as the results of a batch of jobs: few statements in SQLite, and the same answers."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from taskcore.connections.sqlite.address import sqlite_address
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.store import ABSENT, ANY, Conflict, Write
from taskcore.stores.sql import SqliteStore
from taskcore.stores.sql.sqlite.layout import MANY, prepare, write_all

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def new(number: int, *, keep: float | None = 60.0) -> Write:
    """Make the write of a record that must not exist."""
    return Write(key=f"job/{number}", value=b"%d" % number, expect=ABSENT, keep=keep)


async def test_some_of_many_exist(tmp_path: Path):
    """Beside records that exist, have ended, or come twice in the call, each write gets its own answer."""
    async with SqliteStore(f"sqlite:///{tmp_path}/r.db") as store:
        await store.put("job/70", b"there", expect=ANY, keep=None)
        await store.put("job/5", b"ended", expect=ANY, keep=0.05)
        await anyio.sleep(0.1)
        writes = [new(number, keep=60.0 if number % 2 else None) for number in range(4 * MANY)]
        writes[130] = new(129)
        answers = await store.put_many(writes)
        refused = [index for index, answer in enumerate(answers) if isinstance(answer, Conflict)]
        assert refused == [70, 130]
        versions = [answer for answer in answers if not isinstance(answer, Conflict)]
        assert len(set(versions)) == 4 * MANY - 2
        found = await store.get_many([write.key for write in writes])
        for index, (answer, record) in enumerate(zip(answers, found, strict=True)):
            assert record is not None
            if index == 70:
                assert record.value == b"there"
            elif index != 130:
                assert (record.value, record.version) == (b"%d" % index, answer)
        assert all(isinstance(answer, Conflict) for answer in await store.put_many(writes))


def test_statements(tmp_path: Path):
    """A thousand new records take fewer than sixty statements: at each one a thread may have to wait for its turn."""
    file = SqliteFile(sqlite_address(f"sqlite:///{tmp_path}/r.db"))
    prepare(file)
    statements: list[str] = []
    file.connection.set_trace_callback(statements.append)
    file.connection.execute("BEGIN IMMEDIATE")
    [answers] = write_all(file.connection, [[new(number) for number in range(16 * MANY)]], time.time())
    file.connection.execute("COMMIT")
    assert len(set(answers)) == 16 * MANY
    assert len(statements) < 60
    assert file.connection.execute("SELECT count(*) FROM taskcore_records").fetchone() == (16 * MANY,)
    file.close()
