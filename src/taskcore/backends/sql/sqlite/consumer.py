"""The file and its threads: one carries out whatever has arrived as one transaction, one waits for changes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar, cast

from taskcore.backends.sql.sqlite.layout import prepare
from taskcore.backends.sql.sqlite.ledger import clean
from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.changes import SqliteChanges
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.transactions import NEEDS_LOCK, SqliteTransactions
from taskcore.errors import BrokerUnavailable

__all__ = ["SqliteQueues", "ValueRefused"]

T = TypeVar("T")

CLEAN_EVERY: Final = 5.0  #: seconds, at least, between two deletions of ids of ended jobs
CLEAN_BATCH: Final = 2_000  #: ids deleted in one transaction

#: A piece of work: what it does in a transaction, at this time.
Work: TypeAlias = Callable[[sqlite3.Connection, float], T]


class ValueRefused(BrokerUnavailable):
    """SQLite refuses a value of the work, now and later; nothing was done."""


class Piece(NamedTuple, Generic[T]):
    """A piece of work for the thread.

    :param needed: asks, without any lock, whether there is something to do; if not, the answer is ``nothing``.
    :param reads: it writes nothing, so it needs no lock.
    """

    work: Work[T]
    needed: Work[bool] | None = None
    nothing: Any = None
    reads: bool = False


class SqliteQueues:
    """The open file, for all sources of one backend."""

    def __init__(self, address: SqliteAddress) -> None:
        self.address = address
        self._writer = SqliteTransactions(address, _QueueWork())
        self._changes = SqliteChanges(address, prepare)
        self.sleep = self._changes.sleep  #: see :class:`taskcore.connections.sqlite.changes.SqliteChanges`
        self.awake, self.wake = self._changes.awake, self._changes.wake

    async def open(self) -> None:
        """Open the file, and make it and the tables if they are not there.

        :raises BrokerUnavailable: it cannot be opened.
        """
        try:
            await self._writer.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the file."""
        await self._changes.close()
        await self._writer.close()

    async def do(self, work: Work[T], *, needed: Work[bool] | None = None, nothing: T | None = None) -> T:
        """Do the work in a transaction; it is durable when this returns.

        :param needed: see :class:`Piece`.
        :raises BrokerUnavailable: it was not done; after a timeout it may have been.
        """
        answer = await self._writer.ask(Piece(work, needed, nothing))
        if isinstance(answer, ValueRefused):
            raise answer
        return cast("T", answer)

    async def look(self, work: Work[T]) -> T:
        """Do work that only reads, without a lock.

        :raises BrokerUnavailable: it was not done.
        """
        return cast("T", await self._writer.ask(Piece(work, reads=True)))


class _QueueWork:
    """What a backend does in the thread that writes."""

    def __init__(self) -> None:
        self._cleaned = 0.0

    def begin(self, file: SqliteFile) -> None:
        prepare(file)

    def look(self, connection: sqlite3.Connection, now: float, item: Piece[Any]) -> Any:
        if item.reads:
            return item.work(connection, now)
        return NEEDS_LOCK if item.needed is None or item.needed(connection, now) else item.nothing

    def carry_out(self, connection: sqlite3.Connection, now: float, items: list[Piece[Any]]) -> Sequence[Any]:
        return [item.work(connection, now) for item in items]

    def refused(self, connection: sqlite3.Connection, item: Piece[Any], error: Exception) -> ValueRefused:  # noqa: ARG002
        return ValueRefused(f"SQLite refuses a value: {error}")

    def committed(self, items: list[Piece[Any]], answers: list[Any]) -> None:
        """Do nothing: each caller wakes what it has to."""

    def do_idle_work(self, file: SqliteFile) -> None:
        """Forget ended jobs, a bounded step at a time."""
        now = time.monotonic()
        if now >= self._cleaned + CLEAN_EVERY and clean(file.connection, time.time(), CLEAN_BATCH) < CLEAN_BATCH:
            self._cleaned = now
