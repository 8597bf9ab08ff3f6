"""SqliteStore: records in one file, for all processes of one machine. Needs nothing but Python.

Each store has two threads: one writes, one reads (WAL: neither waits for the other). Several processes take turns by
SQLite's own lock. A watch gets this store's own writes at once. For writes of other processes the reading thread asks
SQLite whether the file has changed, twenty times a second and only while a record is watched: SQLite cannot push.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from taskcore.connections.sqlite.address import sqlite_address
from taskcore.connections.sqlite.diagnose import diagnose
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.thread import SqliteThread
from taskcore.connections.sqlite.transactions import NEEDS_LOCK, SqliteTransactions
from taskcore.errors import StoreRefused
from taskcore.store import Conflict, Expect, Record, Version, Write
from taskcore.stores.limits import check_names, check_writes, refusal
from taskcore.stores.sql.sqlite.layout import clean, find, is_refusal, prepare, write_all, write_alone
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.call_soon import CallSoon, call_soon_in_loop
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["SqliteStore"]

POLL_SECONDS = 0.05  #: seconds between two checks for writes of other processes, while a record is watched
CLEAN_EVERY = 5.0  #: seconds, at least, between two deletions of ended records
CLEAN_BATCH = 500  #: records deleted in one transaction, which holds the lock

LARGEST_VALUE = 256 * 1024 * 1024  #: bytes; SQLite may be built to take a gigabyte, in a thread that others wait for

Answers: TypeAlias = Sequence[Version | Conflict]


class Read(NamedTuple):
    """A key to be read: once; from now on whenever the file has changed; or no more."""

    key: str
    how: Literal["once", "from now on", "no more"] = "once"


class SqliteStore:
    """Records in one SQLite file.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?synchronous=`` and ``?timeout=``.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    """

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._address = self.database = address = sqlite_address(url)  #: see :class:`taskcore.joint_ends.InDatabase`
        self._writer = SqliteTransactions(address, _StoreWork(self._push_own))
        self._reader: SqliteThread[Sequence[Read], Sequence[Record | None]] = SqliteThread(
            "reads",
            address,
            begin=self._begin_to_read,
            work=self._read,
            idle_work=self._poll,
            idle_after=lambda: POLL_SECONDS if self._watched else None,
        )
        self.max_value: int = LARGEST_VALUE  #: see :class:`taskcore.store.LimitsValues`
        self._call_soon: CallSoon | None = None
        self._watches = Watches(  # in the event loop
            begin=self._begin_watch,
            end=lambda key: self._reader.submit_nowait((Read(key, "no more"),)),
        )
        self._watched: set[str] = set()  # in the reading thread: the same keys
        self._seen: int | None = None  # in the reading thread: the data version at the last poll
        self._polled = 0.0  # in the reading thread

    async def __aenter__(self) -> Self:
        """Open the file, and make it and the tables if they are not there.

        :raises BrokerUnavailable: it cannot be opened.
        """
        self._call_soon = call_soon_in_loop()
        try:
            await self._writer.open()
            await self._reader.ask((Read(""),))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the file."""
        await self._reader.close()
        await self._writer.close()

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        [record] = await self.get_many((key,))
        return record

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`. One visit to the reading thread."""
        check_names(keys)
        return await self._reader.ask([Read(key) for key in keys]) if keys else []

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self.put_many((Write(key=key, value=value, expect=expect, keep=keep),))
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self.put_many((Write(key=key, value=None, expect=expect),))
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`; here it is a transaction, but callers should not rely on it.

        After ``StoreRefused`` by SQLite the other writes were carried out, each in its own transaction; none was, if a
        name or a value was known to be too large before.
        """
        if not writes:
            return []
        check_writes(writes, self.max_value)
        answers: Answers | StoreRefused = await self._writer.ask(writes)
        if isinstance(answers, StoreRefused):
            raise answers
        return answers

    def joining(self, writes: Sequence[Write]) -> Callable[[sqlite3.Connection, float], Sequence[Version] | None]:
        """See :class:`taskcore.joint_ends.JoinsTransactions`."""
        check_writes(writes, self.max_value)

        def write(connection: sqlite3.Connection, now: float) -> Sequence[Version] | None:
            [answers] = write_all(connection, [writes], now)
            versions = [answer for answer in answers if not isinstance(answer, Conflict)]
            return versions if len(versions) == len(answers) else None

        return write

    def joined(self, writes: Sequence[Write], versions: Sequence[Version]) -> None:
        """Give watches of this store the records at once."""
        self._push_own([writes], [versions])

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Writes of other processes are seen within 0.05 s."""
        return self._watches.watch(key)

    async def _begin_watch(self, watch: Watch) -> Record | None:
        [record] = await self._reader.ask((Read(watch.key, "from now on"),))
        return record

    async def diagnose(self) -> Diagnosis:
        """See :class:`taskcore.toolkit.diagnostics.HasDiagnostics`."""
        return await diagnose(self._address)

    # ── in the writing thread ──

    def _push_own(self, batches: list[Sequence[Write]], answers: list[Answers]) -> None:
        """Give watches of this store its own writes at once, before the next poll."""
        watched = self._watched
        if not watched or self._call_soon is None:
            return
        changes = [
            (write.key, Record(write.value, answer))
            for batch, answered in zip(batches, answers, strict=True)
            for write, answer in zip(batch, answered, strict=True)
            if write.value is not None and not isinstance(answer, Conflict) and write.key in watched
        ]
        if changes:
            self._call_soon(lambda: self._push(changes))

    # ── in the reading thread ──

    def _begin_to_read(self, file: SqliteFile) -> None:
        prepare(file)
        self._seen = None

    def _read(self, file: SqliteFile, batches: list[Sequence[Read]]) -> Sequence[Sequence[Record | None]]:
        for one in chain.from_iterable(batches):
            if one.how == "from now on":
                self._watched.add(one.key)
            elif one.how == "no more":
                self._watched.discard(one.key)
        now = time.time()
        return [[find(file.connection, one.key, now) for one in batch] for batch in batches]

    def _poll(self, file: SqliteFile) -> None:
        """Read the watched records, if the file has changed; at most once in each interval."""
        if not self._watched or time.monotonic() < self._polled + POLL_SECONDS:
            return
        self._polled = time.monotonic()
        change = file.connection.execute("PRAGMA data_version").fetchone()[0]  # another one after each commit of others
        if change == self._seen:
            return
        now = time.time()
        changes = [(key, record) for key in self._watched if (record := find(file.connection, key, now)) is not None]
        self._seen = change
        if self._call_soon is not None:
            self._call_soon(lambda: self._push(changes))

    # ── in the event loop ──

    def _push(self, changes: Sequence[tuple[str, Record]]) -> None:
        for key, record in changes:
            self._watches.push(key, record)


class _StoreWork:
    """What a store does in the thread that writes.

    :param push: gives watches the records that were written.
    """

    def __init__(self, push: Callable[[list[Sequence[Write]], list[Answers]], None]) -> None:
        self._push = push
        self._cleaned = 0.0

    def begin(self, file: SqliteFile) -> None:
        prepare(file)

    def look(self, connection: sqlite3.Connection, now: float, item: Sequence[Write]) -> Any:  # noqa: ARG002
        return NEEDS_LOCK if item else ()

    def carry_out(
        self, connection: sqlite3.Connection, now: float, items: list[Sequence[Write]]
    ) -> Sequence[Answers | StoreRefused]:
        return write_all(connection, items, now)

    def refused(
        self,
        connection: sqlite3.Connection,
        item: Sequence[Write],
        error: Exception,  # noqa: ARG002
    ) -> Answers | StoreRefused:
        """Carry out each write of a caller alone: SQLite refuses one of them."""
        written: list[Write] = []
        answers: list[Version | Conflict] = []
        failed: StoreRefused | None = None
        for write in item:
            try:
                answer = write_alone(connection, write)
            except (sqlite3.Error, OverflowError) as own:
                if isinstance(own, sqlite3.Error) and not is_refusal(own):
                    raise
                failed = refusal(write.key, str(own))
            else:
                written.append(write)
                answers.append(answer)
        self._push([written], [answers])
        return failed or answers

    def committed(self, items: list[Sequence[Write]], answers: list[Answers]) -> None:
        self._push(items, answers)

    def do_idle_work(self, file: SqliteFile) -> None:
        """Delete ended records, a bounded step at a time; after a full step the next write brings the next one."""
        now = time.monotonic()
        if now >= self._cleaned + CLEAN_EVERY and clean(file.connection, CLEAN_BATCH) < CLEAN_BATCH:
            self._cleaned = now
