"""Jobs in a transaction of the program's own: they exist if it commits, and in no other case."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Duplicate, Outgoing, Stored
from taskcore.backends.sql.insert import insert_jobs, insert_jobs_async
from taskcore.errors import InvalidSetting

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

BATCH = [Outgoing("q", "1", b"one"), Outgoing("q", "2", b"two", b"", 60.0), Outgoing("q", "1", b"again")]


async def counts(url: str) -> tuple[int, int]:
    """Return how many jobs are ready and scheduled."""
    async with open_backend(url) as backend:
        [stats] = await backend.admin.stats(["q"])
    return stats.ready, stats.scheduled


async def test_jobs_share_the_fate_of_a_transaction(url: str, tmp_path: Path):
    """Rolled back, the jobs never were; committed, they are there once, and known."""
    assert await counts(url) == (0, 0)  # makes the tables
    open_own = sqlite3.connect if url.startswith("sqlite") else psycopg.connect
    own = open_own(str(tmp_path / "jobs.db") if url.startswith("sqlite") else url)
    try:
        assert insert_jobs(own, BATCH) == [Stored(), Stored(), Duplicate()]
        own.rollback()
        assert await counts(url) == (0, 0)
        assert insert_jobs(own, BATCH) == [Stored(), Stored(), Duplicate()]
        assert await counts(url) == (0, 0)
        own.commit()
        assert await counts(url) == (1, 1)
        assert insert_jobs(own, BATCH) == [Duplicate()] * 3
        own.commit()
        assert await counts(url) == (1, 1)
    finally:
        own.close()


async def test_asynchronous_connections(database: str):
    """Psycopg's asynchronous connections do the same."""
    assert await counts(database) == (0, 0)
    async with await psycopg.AsyncConnection.connect(database) as own:
        assert await insert_jobs_async(own, BATCH) == [Stored(), Stored(), Duplicate()]
        await own.rollback()
        assert await insert_jobs_async(own, BATCH) == [Stored(), Stored(), Duplicate()]
    assert await counts(database) == (1, 1)


async def test_an_ended_job_is_not_inserted_again(url: str, tmp_path: Path):
    """The id of a job that has just ended is known in a transaction of the program's own, too."""
    async with open_backend(url) as backend:
        await backend.publish([BATCH[0]])
        assert await backend.admin.remove("q", "1")
    with (
        sqlite3.connect(tmp_path / "jobs.db") if url.startswith("sqlite") else psycopg.connect(url)  # type: ignore[attr-defined]
    ) as own:
        assert insert_jobs(own, [BATCH[0]]) == [Duplicate()]
    assert await counts(url) == (0, 0)


async def test_connections_that_cannot_be_used(url: str, tmp_path: Path):
    """Autocommit, another database and other objects are refused, with the way out."""
    autocommit = (
        sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        if url.startswith("sqlite")
        else psycopg.connect(url, autocommit=True)
    )
    with pytest.raises(InvalidSetting, match="commits every statement"):
        insert_jobs(autocommit, BATCH)
    autocommit.close()
    empty = sqlite3.connect(tmp_path / "other.db") if url.startswith("sqlite") else psycopg.connect(url)
    with pytest.raises(InvalidSetting, match="does not lead to the database of the queue"):
        insert_jobs(empty, BATCH)
    empty.close()
    with pytest.raises(InvalidSetting, match="cannot be stored through"):
        insert_jobs(object(), BATCH)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="cannot be stored through"):
        await insert_jobs_async(object(), BATCH)  # type: ignore[arg-type]
