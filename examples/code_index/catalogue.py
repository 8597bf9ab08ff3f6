"""The catalogue: an SQLite file with a row for each file that was read. It is left in the output folder, to be asked:

    sqlite3 build/code_index/catalogue.sqlite "select encoding, count(*) from file group by 1"

Many threads, and with ``--workers`` many processes, write into it at once. That is what SQLite does not do: one writes,
the others are told ``database is locked``. So this is a real thing that really fails for a moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["create", "record"]

PATIENCE = 0.02  #: seconds to wait for the lock; a thread that waits longer is better given to another job


def create(path: Path) -> None:
    """Make an empty catalogue, in place of an older one."""
    path.unlink(missing_ok=True)
    with _writing(str(path)) as db:
        db.execute("create table file (path text primary key, size integer, encoding text, digest text) without rowid")
        db.execute("create index file_digest on file (digest)")


def record(catalogue: str, path: str, size: int, encoding: str, digest: str) -> str | None:
    """Write down a file; the path of another one with the same content, if there is one already.

    :raises sqlite3.OperationalError: somebody else is writing.
    """
    with _writing(catalogue) as db:
        # Looking and writing are one step: nobody else can write in between.
        found = db.execute("select min(path) from file where digest = ? and path <> ?", (digest, path)).fetchone()
        db.execute("insert or replace into file values (?, ?, ?, ?)", (path, size, encoding, digest))
    return None if found is None else found[0]


@contextmanager
def _writing(catalogue: str) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(catalogue, timeout=PATIENCE, isolation_level=None)
    try:
        db.execute("pragma synchronous = off")  # after a power cut the index is made again
        db.execute("begin immediate")  # the lock first, or the error
        yield db
        db.execute("commit")
    finally:
        db.close()  # what is not committed by now is undone
