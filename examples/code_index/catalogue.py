"""The catalogue: an SQLite file with a row for each file that was read. It stays in the output folder, to be asked.

    sqlite3 build/code_index/catalogue.sqlite "select encoding, count(*) from file group by encoding"

Many threads, and with ``--workers`` many processes, write into it at once. SQLite lets one of them write, and tells the
others after a moment that ``database is locked``. So here is a thing that really fails, and works when tried again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Busy", "create", "record"]

PATIENCE = 0.02  #: seconds to wait for the lock; then the thread is better given to another job


class Busy(Exception):
    """Somebody else is writing."""


def create(path: Path) -> None:
    """Make an empty catalogue."""
    with _writing(str(path), "rwc") as db:
        db.execute("create table file (path text primary key, size integer, encoding text, digest text) without rowid")
        db.execute("create index file_digest on file (digest)")


def record(catalogue: str, path: str, size: int, encoding: str, digest: str) -> str | None:
    """Write down a file; the path of another one with the same content, if there is one already.

    :raises Busy: somebody else is writing.
    """
    with _writing(catalogue) as db:
        # Looking and writing are one step: nobody else can write in between.
        twin: str | None
        (twin,) = db.execute("select min(path) from file where digest = ? and path <> ?", (digest, path)).fetchone()
        db.execute("insert or replace into file values (?, ?, ?, ?)", (path, size, encoding, digest))
    return twin


@contextmanager
def _writing(catalogue: str, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    address = f"{Path(catalogue).as_uri()}?mode={mode}"  # rw: a catalogue that is gone is not made anew
    db = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)
    try:
        db.execute("pragma synchronous = off")  # after a power cut the index is made again
        db.execute("begin immediate")  # the lock first, or the error
        yield db
        db.execute("commit")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise Busy(str(error)) from error
        raise
    finally:
        db.close()  # what is not committed by now is undone
