"""The open file of a backend: its verbs' transactions, what waits for changes, and forgetting ended jobs."""

from __future__ import annotations

import time
from typing import Final

from taskcore.backends.sql.sqlite.layout import prepare
from taskcore.backends.sql.sqlite.ledger import clean
from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.changes import SqliteChanges
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.works import SqliteWorks

__all__ = ["SqliteQueues"]

CLEAN_EVERY: Final = 5.0  #: seconds, at least, between two deletions of ids of ended jobs
CLEAN_BATCH: Final = 2_000  #: ids deleted in one transaction


class SqliteQueues(SqliteWorks):
    """The open file, for all sources of one backend."""

    def __init__(self, address: SqliteAddress) -> None:
        super().__init__(address, prepare, self._forget_ended)
        self._cleaned = 0.0
        self._changes = SqliteChanges(address, prepare)
        self.sleep = self._changes.sleep  #: see :class:`taskcore.connections.sqlite.changes.SqliteChanges`
        self.awake, self.wake = self._changes.awake, self._changes.wake

    async def close(self) -> None:
        """Close the file."""
        await self._changes.close()
        await super().close()

    def _forget_ended(self, file: SqliteFile) -> None:
        """Forget ended jobs, in the thread, a bounded step at a time."""
        now = time.monotonic()
        if now >= self._cleaned + CLEAN_EVERY and clean(file.connection, time.time(), CLEAN_BATCH) < CLEAN_BATCH:
            self._cleaned = now
