"""The one thread of this program that writes into a file: a backend and a store on the same file share it.

SQLite has one lock for writing, and a connection that finds it taken sleeps. What a program writes at the same time is
therefore one transaction of one thread, whatever part of the program it comes from.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import anyio.lowlevel

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.thread import SqliteThread

__all__ = ["NEEDS_LOCK", "SqliteTransactions", "SqliteWork"]

CLEAN_IDLE: Final = 60.0  #: seconds after which a program that writes nothing does its idle work
REFUSALS: Final = (sqlite3.DataError, sqlite3.IntegrityError, OverflowError)  #: what SQLite never takes
NEEDS_LOCK: Final = object()  #: the answer to a look at an item that has to be carried out


class SqliteWork(Protocol):
    """What one part of the program does with the file. Every function runs in the thread."""

    def begin(self, file: SqliteFile) -> None:
        """Prepare a file that was just opened."""
        ...

    def look(self, connection: sqlite3.Connection, now: float, item: Any) -> Any:
        """Answer an item that writes nothing, without a lock; NEEDS_LOCK for another."""
        ...

    def carry_out(self, connection: sqlite3.Connection, now: float, items: list[Any]) -> Sequence[Any]:
        """Carry out items inside a transaction; answer each."""
        ...

    def refused(self, connection: sqlite3.Connection, item: Any, error: Exception) -> Any:
        """Answer an item, alone and outside of a transaction, because SQLite refuses a value of it."""
        ...

    def committed(self, items: list[Any], answers: list[Any]) -> None:
        """Learn that items were carried out."""
        ...

    def do_idle_work(self, file: SqliteFile) -> None:
        """Do what may wait; called after each transaction, and now and then without one."""
        ...


class Item(NamedTuple):
    """Something to carry out, and the part that knows how; None: a part is to be prepared."""

    part: SqliteWork | None
    item: Any


Shared: TypeAlias = "SqliteThread[Item, Any]"


class SqliteTransactions:
    """One part's share of the thread for a file."""

    def __init__(self, address: SqliteAddress, part: SqliteWork) -> None:
        self._address = address
        self._part = part
        self._shared: _SharedThread | None = None

    async def open(self) -> None:
        """Open the file, in the thread for it, and prepare it for this part.

        :raises BrokerUnavailable: it cannot be opened.
        """
        key = (self._address, os.getpid(), anyio.lowlevel.current_token())
        self._shared = shared = _THREADS.get(key) or _THREADS.setdefault(key, _SharedThread(self._address, key))
        shared.parts.append(self._part)
        await shared.thread.ask(Item(None, self._part))

    async def close(self) -> None:
        """Leave the thread; the last part ends it."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        shared.parts.remove(self._part)
        if not shared.parts:
            _THREADS.pop(shared.key, None)
            await shared.thread.close()

    async def ask(self, item: Any) -> Any:
        """Carry out an item; it is durable when this returns.

        :raises BrokerUnavailable: the item was not carried out; SqliteUncertain: it may have been.
        """
        if self._shared is None:
            raise RuntimeError("the file is used inside the context of its backend or store only")
        return await self._shared.thread.ask(Item(self._part, item))


class _SharedThread:
    """The thread for one file, and the parts that use it."""

    def __init__(self, address: SqliteAddress, key: Any) -> None:
        self.key = key
        self.parts: list[SqliteWork] = []
        self.thread: Shared = SqliteThread(
            "writes",
            address,
            begin=self._begin,
            work=_carry_out,
            idle_work=self._do_idle_work,
            idle_after=lambda: CLEAN_IDLE,
        )

    def _begin(self, file: SqliteFile) -> None:
        for part in tuple(self.parts):
            part.begin(file)

    def _do_idle_work(self, file: SqliteFile) -> None:
        for part in tuple(self.parts):
            part.do_idle_work(file)


_THREADS: dict[Any, _SharedThread] = {}


def _carry_out(file: SqliteFile, items: list[Item]) -> Sequence[Any]:
    """Answer what needs no lock, and carry out the rest in one transaction."""
    connection, now = file.connection, time.time()
    answers: list[Any] = []
    writing: dict[SqliteWork, list[int]] = {}
    for place, (part, item) in enumerate(items):
        if part is None:
            answers.append(item.begin(file))
            continue
        answers.append(part.look(connection, now, item))
        if answers[-1] is NEEDS_LOCK:
            writing.setdefault(part, []).append(place)
    if writing:
        _write(file, items, writing, answers)
    return answers


def _write(file: SqliteFile, items: list[Item], writing: dict[SqliteWork, list[int]], answers: list[Any]) -> None:
    """Carry out items in one transaction; each in its own if SQLite refuses a value of one of them.

    :param writing: the places of the items, by their parts.
    """
    connection = file.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        now = time.time()
        for part, places in writing.items():
            found = part.carry_out(connection, now, [items[place].item for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not isinstance(error, REFUSALS):
            raise
        alone = [(part, place) for part, places in writing.items() for place in places]
        for part, place in alone:
            if len(alone) > 1:
                _write(file, items, {part: [place]}, answers)
            else:
                answers[place] = part.refused(connection, items[place].item, error)
        return
    for part, places in writing.items():
        part.committed([items[place].item for place in places], [answers[place] for place in places])
