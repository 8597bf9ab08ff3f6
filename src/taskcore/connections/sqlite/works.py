"""Functions that are carried out in the thread that writes: those that come at the same time, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.transactions import NEEDS_LOCK, SqliteTransactions
from taskcore.errors import BrokerUnavailable

__all__ = ["FileWork", "SqliteWorks", "ValueRefused"]

T = TypeVar("T")

#: A piece of work: what it does with the file, at this time.
FileWork: TypeAlias = Callable[[sqlite3.Connection, float], T]


class ValueRefused(BrokerUnavailable):
    """SQLite refuses a value of the work, now and later; nothing was done."""


class SqliteWorks:
    """The open file of one part of the program.

    :param prepare: is called, in the thread, with a file that was just opened.
    :param idle_work: does what may wait; called, in the thread, after each transaction, and now and then without one.
    """

    def __init__(
        self, address: SqliteAddress, prepare: Callable[[SqliteFile], None], idle_work: Callable[[SqliteFile], None]
    ) -> None:
        self.address = address
        self._writer = SqliteTransactions(address, _Functions(prepare, idle_work))

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
        await self._writer.close()

    async def do(self, work: FileWork[T], *, needed: FileWork[bool] | None = None, nothing: T | None = None) -> T:
        """Do the work in a transaction; it is durable when this returns.

        :param needed: asks, without any lock, whether there is something to do; if not, the answer is ``nothing``.
        :raises BrokerUnavailable: it was not done; after a timeout it may have been.
        """
        answer = await self._writer.ask(_Piece(work, needed, nothing))
        if isinstance(answer, ValueRefused):
            raise answer
        return cast("T", answer)

    async def look(self, work: FileWork[T]) -> T:
        """Do work that only reads, without a lock.

        :raises BrokerUnavailable: it was not done.
        """
        return cast("T", await self._writer.ask(_Piece(work, reads=True)))


class _Piece(NamedTuple, Generic[T]):
    """A piece of work for the thread; see ``SqliteWorks.do``.

    :param reads: it writes nothing, so it needs no lock.
    """

    work: FileWork[T]
    needed: FileWork[bool] | None = None
    nothing: Any = None
    reads: bool = False


class _Functions:
    """What carries the functions out; see :class:`taskcore.connections.sqlite.transactions.SqliteWork`."""

    def __init__(self, prepare: Callable[[SqliteFile], None], idle_work: Callable[[SqliteFile], None]) -> None:
        self._prepare = prepare
        self._idle_work = idle_work

    def begin(self, file: SqliteFile) -> None:
        self._prepare(file)

    def look(self, connection: sqlite3.Connection, now: float, item: _Piece[Any]) -> Any:
        if item.reads:
            return item.work(connection, now)
        return NEEDS_LOCK if item.needed is None or item.needed(connection, now) else item.nothing

    def carry_out(self, connection: sqlite3.Connection, now: float, items: list[_Piece[Any]]) -> Sequence[Any]:
        return [item.work(connection, now) for item in items]

    def refused(self, connection: sqlite3.Connection, item: _Piece[Any], error: Exception) -> ValueRefused:  # noqa: ARG002
        return ValueRefused(f"SQLite refuses a value: {error}")

    def committed(self, items: list[_Piece[Any]], answers: list[Any]) -> None:
        """Do nothing: each caller has its answer."""

    def do_idle_work(self, file: SqliteFile) -> None:
        self._idle_work(file)
