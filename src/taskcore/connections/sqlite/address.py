"""SQLite URLs.

sqlite:///shop.db                      relative to the working folder
sqlite:////var/lib/shop/shop.db        absolute

?synchronous=full      full: a commit survives a power cut. normal: it survives a killed process, a power cut takes
                       the last commits. extra: as full, and the folder is synced too
?timeout=10            seconds that a call may take, waiting for another process's lock included
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import msgspec

from taskcore.toolkit.urls import Reader, choice, read_options, refuse_url, seconds, split_url

__all__ = ["SqliteAddress", "sqlite_address"]

TIMEOUT: Final = 10.0  #: seconds that a call may take
LOCK_SHARE: Final = 0.8  #: share of that time for waiting for a lock
EXAMPLE: Final = "sqlite:///shop.db, sqlite:////data/shop.db?synchronous=full&timeout=10s"

_synchronous: Reader = choice("full", "normal", "extra")
READERS: Final[Mapping[str, Reader]] = {
    "synchronous": lambda given: _synchronous(given.lower()),
    "timeout": seconds(),
}


class SqliteAddress(msgspec.Struct, frozen=True):
    """Where the file is, and how it is used."""

    path: Path
    synchronous: str = "full"
    timeout: float = TIMEOUT

    @property
    def busy_timeout(self) -> float:
        """Seconds to wait for a lock; less than a call may take, so SQLite's own answer comes first."""
        return self.timeout * LOCK_SHARE


def sqlite_address(url: str) -> SqliteAddress:
    """Read a URL.

    :raises InvalidURL: it names no file, or has an unknown or impossible option (TC103).
    """
    parts = split_url(url, example=EXAMPLE)
    path = unquote(parts.path.removeprefix("/"))
    problems: list[str] = []
    options = read_options(parts.query, READERS, problems)
    if parts.netloc:
        problems.append("SQLite has no host: three slashes for a relative path, four for an absolute one")
    elif path in {"", ":memory:"}:
        problems.append("it names no file; for one process there is memory://")
    if problems:
        refuse_url(url, problems, example=EXAMPLE)
    return SqliteAddress(Path(path).absolute(), **options)
