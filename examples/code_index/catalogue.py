"""The catalogue: an SQLite file with a row for each file that was read. It stays in the output folder for queries.

    sqlite3 build/code_index/catalogue.sqlite "select encoding, count(*) from file group by encoding"

Many threads, and with ``--workers`` many processes, write into it at once. SQLite admits one writer; after a moment the
others get ``database is locked``. This is an error that really occurs and that a retry solves.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Busy", "create", "forget", "note", "record", "recorded"]

LOCK_TIMEOUT = 0.02  #: seconds to wait for the lock; after that the thread is more useful to another job


COLUMNS = "path text primary key, size integer, encoding text, digest text"
NOTED = "job text, process integer, time real"


class Busy(Exception):
    """Another writer has the lock."""


def create(path: Path) -> None:
    """Create an empty catalogue, where there is none."""
    with _writing(str(path), "rwc") as db:
        db.execute(f"create table if not exists file ({COLUMNS}) without rowid")
        db.execute("create index if not exists file_digest on file (digest)")
        db.execute(f"create table if not exists upkeep (what text, instant text, files integer, {NOTED})")


def record(catalogue: str, path: str, size: int, encoding: str, digest: str) -> str | None:
    """Record a file; return the path of another one with the same content, if there is one.

    :raises Busy: another writer has the lock.
    """
    with _writing(catalogue) as db:
        # Reading and writing are one transaction: no other writer can come in between.
        twin: str | None
        (twin,) = db.execute("select min(path) from file where digest = ? and path <> ?", (digest, path)).fetchone()
        db.execute("insert or replace into file values (?, ?, ?, ?)", (path, size, encoding, digest))
    return twin


def recorded(catalogue: str) -> list[str]:
    """List the files that the catalogue knows."""
    with _writing(catalogue) as db:
        return [path for (path,) in db.execute("select path from file")]


def forget(catalogue: str, paths: Iterable[str]) -> None:
    """Remove files."""
    with _writing(catalogue) as db:
        db.executemany("delete from file where path = ?", [(path,) for path in paths])


def note(catalogue: str, what: str, instant: str, files: int, job: str) -> None:
    """Add a line to the log of the catalogue's upkeep."""
    with _writing(catalogue) as db:
        db.execute(
            "insert into upkeep values (?, ?, ?, ?, ?, ?)", (what, instant, files, job, os.getpid(), time.time())
        )


@contextmanager
def _writing(catalogue: str, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    address = f"{Path(catalogue).as_uri()}?mode={mode}"  # rw: do not create a missing catalogue
    db = sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None)
    try:
        db.execute("pragma synchronous = off")  # after a power cut the program runs again
        db.execute("begin immediate")  # take the lock first, or fail
        yield db
        db.execute("commit")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise Busy(str(error)) from error
        raise
    finally:
        db.close()  # rolls back an open transaction
