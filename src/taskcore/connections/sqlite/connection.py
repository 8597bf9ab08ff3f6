"""SQLite: from a URL to an open file, and its errors in our words. Nothing here is asynchronous.

sqlite:///shop.db                      relative to the working folder
sqlite:////var/lib/shop/shop.db        absolute

?synchronous=full      full: a commit survives a power cut. normal: it survives a killed process, a power cut takes
                       the last commits. extra: as full, and the folder is synced too
?timeout=10            seconds that a call may take, waiting for another process's lock included
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from taskcore.errors import BrokerUnavailable, InvalidURL
from taskcore.toolkit.units import duration
from taskcore.toolkit.urls import mask_url

__all__ = ["SqliteAddress", "SqliteFile", "sqlite_address", "sqlite_unavailable"]

TIMEOUT = 10.0  #: seconds that a call may take
LOCK_SHARE = 0.8  #: of that time, for waiting for a lock
SYNCHRONOUS = ("full", "normal", "extra")
LOCKED_AGAIN = 0.02  #: seconds until a lock is asked for once more, where SQLite itself does not wait


class SqliteAddress(msgspec.Struct, frozen=True):
    """Where the file is, and how it is used."""

    path: Path
    synchronous: str
    timeout: float

    @property
    def patience(self) -> float:
        """Seconds to wait for a lock; less than a call may take, so that the answer is the better one."""
        return self.timeout * LOCK_SHARE


def sqlite_address(url: str) -> SqliteAddress:
    """What a URL says.

    :raises InvalidURL: it names no file, or an option that does not exist (TC103).
    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc:
        raise InvalidURL(
            f"{mask_url(url)} has a host, and SQLite is a file on this machine",
            fix="three slashes for a relative path, four for an absolute one: sqlite:///shop.db, sqlite:////data/shop.db",
        )
    if path in {"", ":memory:"}:
        raise InvalidURL(
            f"{mask_url(url)} names no file",
            facts=["a database in memory could be seen by one connection only"],
            fix='store="memory://" for one process, or a file: sqlite:///shop.db',
        )
    options = _options(url, parts.query)
    return SqliteAddress(Path(path).absolute(), options.get("synchronous", "full"), _timeout(url, options))


def _options(url: str, query: str) -> dict[str, str]:
    options = {name: value.lower() for name, value in parse_qsl(query, keep_blank_values=True)}
    unknown = sorted(options.keys() - {"synchronous", "timeout"})
    if unknown:
        raise InvalidURL(
            f"{mask_url(url)} has an unknown option {', '.join(unknown)}", fix="there are synchronous and timeout"
        )
    if options.get("synchronous", "full") not in SYNCHRONOUS:
        raise InvalidURL(
            f"{mask_url(url)}: synchronous={options['synchronous']} is not known",
            fix=f"one of {', '.join(SYNCHRONOUS)}",
        )
    return options


def _timeout(url: str, options: dict[str, str]) -> float:
    try:
        seconds = duration(options.get("timeout", TIMEOUT))
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise InvalidURL(f"{mask_url(url)}: timeout={options['timeout']} is not a time", fix="for example timeout=10s")
    return seconds


class SqliteFile:
    """One open connection, for one thread at a time.

    :raises BrokerUnavailable: the file cannot be opened, or stays locked.
    """

    def __init__(self, address: SqliteAddress) -> None:
        self.address = address
        try:
            self.connection = sqlite3.connect(
                address.path, timeout=address.patience, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise sqlite_unavailable(error, address) from error
        try:
            self._set_up(time.monotonic() + address.patience)
            self._identity = _identity(address.path)
        except (sqlite3.Error, OSError) as error:
            self.connection.close()
            raise sqlite_unavailable(error, address) from error

    def close(self) -> None:
        """Close it; what is committed stays."""
        self.connection.close()

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to the open file: a deleted one can be written without any error."""
        with suppress(OSError):
            return _identity(self.address.path) == self._identity
        return False

    def _set_up(self, until: float) -> None:
        execute = self.connection.execute
        execute(f"PRAGMA synchronous = {self.address.synchronous}")
        while execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                if execute("PRAGMA journal_mode = wal").fetchone()[0] != "wal":
                    return  # a file system without shared memory; slower, and as safe: the diagnosis says so
            except sqlite3.OperationalError as error:  # several processes open a new file: here SQLite does not wait
                if not is_locked(error) or time.monotonic() >= until:
                    raise
                time.sleep(LOCKED_AGAIN)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def is_locked(error: sqlite3.Error) -> bool:
    """Whether somebody else has the lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def sqlite_unavailable(error: BaseException, address: SqliteAddress) -> BrokerUnavailable:
    """An error of the library in our words."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    fix = None
    if isinstance(error, sqlite3.Error) and is_locked(error):
        fix = f"some transaction holds the file for longer than {address.patience:g} s; find it and keep it short"
    elif kind == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        fix = "make room on the disk (or raise max_page_count); the next call tries again"
    elif kind == sqlite3.SQLITE_IOERR:
        fix = "the disk has failed: see the system's log before you trust it; the next call tries again"
    elif kind == sqlite3.SQLITE_READONLY:
        fix = "this process has to be allowed to write the file and its folder"
    elif kind == sqlite3.SQLITE_CANTOPEN:
        folder = address.path.parent
        fix = f"create the folder {folder}" if not folder.is_dir() else f"let this process write in {folder}"
    elif kind in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        fix = "it is no SQLite database, or damaged; put it aside, or restore it"
    return BrokerUnavailable(
        f"the SQLite file {address.path} cannot be used now: {error}",
        facts=[f"{type(error).__name__} {getattr(error, 'sqlite_errorname', '')}".rstrip()],
        fix=fix or "the next call opens it anew",
    )


def is_writable(path: Path) -> bool:
    """Whether this process may write the file and make others beside it, as SQLite has to."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def sqlite_version() -> str:
    """The version of the library that this Python uses."""
    with closing(sqlite3.connect(":memory:")) as connection:
        version: str = connection.execute("SELECT sqlite_version()").fetchone()[0]
    return version
