"""One open SQLite file, and SQLite's errors in plain words. Nothing here is asynchronous."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.errors import BrokerUnavailable

__all__ = ["SqliteFile", "SqliteUncertain", "is_locked", "is_writable", "sqlite_unavailable", "sqlite_version"]

LOCK_RETRY: Final = 0.02  #: seconds until a lock is asked for once more, where SQLite itself does not wait


class SqliteUncertain(BrokerUnavailable):
    """What was asked for may have been carried out: the disk failed meanwhile, or the answer did not come in time."""


class SqliteFile:
    """One open connection, for one thread at a time.

    :raises BrokerUnavailable: the file cannot be opened, or stays locked.
    """

    def __init__(self, address: SqliteAddress) -> None:
        self.address = address
        _create(address.path)
        try:
            self.connection = sqlite3.connect(
                address.path, timeout=address.busy_timeout, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise sqlite_unavailable(error, address) from error
        try:
            self._set_up(time.monotonic() + address.busy_timeout)
            self._identity = _identity(address.path)
        except (sqlite3.Error, OSError) as error:
            self.connection.close()
            raise sqlite_unavailable(error, address) from error

    def close(self) -> None:
        """Close it; committed records stay."""
        self.connection.close()

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to the open file: a deleted file can be written without any error."""
        with suppress(OSError):
            return _identity(self.address.path) == self._identity
        return False

    def _set_up(self, until: float) -> None:
        execute = self.connection.execute
        execute(f"PRAGMA synchronous = {self.address.synchronous}")
        while execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                if execute("PRAGMA journal_mode = wal").fetchone()[0] != "wal":
                    return  # a file system without shared memory: slower, and as safe; the diagnosis says so
            except sqlite3.OperationalError as error:  # several processes open a new file: SQLite does not wait
                if not is_locked(error) or time.monotonic() >= until:
                    raise
                time.sleep(LOCK_RETRY)


def _create(path: Path) -> None:
    """Create a missing file for its owner alone: it holds results. SQLite gives -wal and -shm the same permissions."""
    with suppress(OSError):  # it is there already; or SQLite finds the same trouble, and words it better
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def is_locked(error: sqlite3.Error) -> bool:
    """Tell whether another connection has the lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def sqlite_unavailable(error: BaseException, address: SqliteAddress) -> BrokerUnavailable:
    """Translate an error of the library."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    fix = None
    if isinstance(error, sqlite3.Error) and is_locked(error):
        fix = f"some transaction holds the file for longer than {address.busy_timeout:g} s; find it and keep it short"
    elif kind == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        fix = "make room on the disk (or raise max_page_count); the next call tries again"
    elif kind == sqlite3.SQLITE_IOERR:
        fix = "the disk has failed: read the system's log before you trust it; the next call tries again"
    elif kind == sqlite3.SQLITE_READONLY:
        fix = "allow this process to write the file and its folder"
    elif kind == sqlite3.SQLITE_CANTOPEN:
        folder = address.path.parent
        fix = f"create the folder {folder}" if not folder.is_dir() else f"let this process write in {folder}"
    elif kind in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        fix = "the file is no SQLite database, or damaged: move it away, or restore it"
    unavailable = SqliteUncertain if kind == sqlite3.SQLITE_IOERR else BrokerUnavailable
    return unavailable(
        f"the SQLite file {address.path} cannot be used now: {error}",
        facts=[f"{type(error).__name__} {getattr(error, 'sqlite_errorname', '')}".rstrip()],
        fix=fix or "the next call opens it again",
    )


def is_writable(path: Path) -> bool:
    """Tell whether this process may write the file and make others beside it, as SQLite has to."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def sqlite_version() -> str:
    """Return the version of the library that this Python uses."""
    with closing(sqlite3.connect(":memory:")) as connection:
        version: str = connection.execute("SELECT sqlite_version()").fetchone()[0]
    return version
