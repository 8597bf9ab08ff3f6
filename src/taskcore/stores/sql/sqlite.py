"""SqliteStore: records in one file, for all processes of one machine. Needs nothing but Python.

Two threads a store: one writes, one reads (WAL: neither waits for the other). Several processes take turns by SQLite's
own lock. A watch learns of this store's own writes at once; for the writes of others the reading thread asks SQLite
whether the file has changed, twenty times a second, and only while somebody watches: SQLite cannot push.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

from taskcore.connections.sqlite.connection import SqliteFile, sqlite_address
from taskcore.store import Conflict, Expect, Record, Version, Write
from taskcore.stores.sql.sqlite_diagnose import diagnose
from taskcore.stores.sql.sqlite_records import clean, find, prepare, write_all
from taskcore.stores.sql.sqlite_thread import Lane, Post, poster
from taskcore.stores.watches import Watches
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["SqliteStore"]

POLL = 0.05  #: seconds between two looks whether another process has written, while somebody watches
CLEAN_EVERY = 5.0  #: seconds, at least, between two rounds of forgetting
CLEAN_IDLE = 60.0  #: seconds after which a store that writes nothing looks for something to forget
CLEAN_AT_ONCE = 500  #: records forgotten in one transaction, so that nobody waits long for the lock

Answers: TypeAlias = Sequence[Version | Conflict]


class Look(NamedTuple):
    """A key that is to be read: once; from now on, whenever the file has changed; or not any more."""

    key: str
    how: Literal["once", "from now on", "no more"] = "once"


class SqliteStore:
    """Records in one SQLite file.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?synchronous=`` and ``?timeout=``.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    """

    def __init__(self, url: str) -> None:
        self._address = address = sqlite_address(url)
        self._writer: Lane[Sequence[Write], Answers] = Lane(
            "writes", address, begin=prepare, work=self._write, chores=self._clean, rest=lambda: CLEAN_IDLE
        )
        self._reader: Lane[Look, Record | None] = Lane(
            "reads",
            address,
            begin=self._begin_to_read,
            work=self._read,
            chores=self._poll,
            rest=lambda: POLL if self._watched else None,
        )
        self._post: Post | None = None
        self._watches = Watches(  # in the event loop
            begin=lambda watch: self._reader.ask(Look(watch.key, "from now on")),
            end=lambda key: self._reader.tell(Look(key, "no more")),
        )
        self._watched: set[str] = set()  # in the reading thread: the same keys
        self._seen: int | None = None  # likewise: what SQLite said about the file when we last looked
        self._cleaned = 0.0  # in the writing thread
        self._polled = 0.0  # in the reading thread

    async def __aenter__(self) -> Self:
        """Open the file, and make it and the tables if they are not there.

        :raises BrokerUnavailable: it cannot be opened.
        """
        self._post = poster()
        try:
            await self._writer.ask(())
            await self._reader.ask(Look(""))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        await self._reader.close()
        await self._writer.close()

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        return await self._reader.ask(Look(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`."""
        return [await self.get(key) for key in keys]

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self._writer.ask((Write(key=key, value=value, expect=expect, keep=keep),))
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self._writer.ask((Write(key=key, value=None, expect=expect),))
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`; here it is a transaction, which nobody should rely on."""
        return await self._writer.ask(writes) if writes else []

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Pushed within this store; writes of others are seen within 0.05 s."""
        return self._watches.watch(key)

    async def diagnose(self) -> Diagnosis:
        """See :class:`taskcore.toolkit.diagnostics.Diagnosable`."""
        return await diagnose(self._address)

    # ── in the writing thread ──

    def _write(self, file: SqliteFile, batches: list[Sequence[Write]]) -> Sequence[Answers]:
        answers = write_all(file.connection, batches) if any(batches) else [()] * len(batches)
        self._tell(batches, answers)
        return answers

    def _tell(self, batches: list[Sequence[Write]], answers: Sequence[Answers]) -> None:
        """Watches of this very store need not wait for the next look at the file."""
        watched = self._watched
        if not watched or self._post is None:
            return
        news = [
            (write.key, Record(write.value, answer))
            for batch, answered in zip(batches, answers, strict=True)
            for write, answer in zip(batch, answered, strict=True)
            if write.value is not None and not isinstance(answer, Conflict) and write.key in watched
        ]
        if news:
            self._post(lambda: self._push(news))

    def _clean(self, file: SqliteFile) -> None:
        """A bounded step now and then; a full one is followed by the next after the next write."""
        now = time.monotonic()
        if now >= self._cleaned + CLEAN_EVERY and clean(file.connection, CLEAN_AT_ONCE) < CLEAN_AT_ONCE:
            self._cleaned = now

    # ── in the reading thread ──

    def _begin_to_read(self, file: SqliteFile) -> None:
        prepare(file)
        self._seen = None

    def _read(self, file: SqliteFile, looks: list[Look]) -> Sequence[Record | None]:
        for look in looks:
            if look.how == "from now on":
                self._watched.add(look.key)
            elif look.how == "no more":
                self._watched.discard(look.key)
        now = time.time()
        return [find(file.connection, look.key, now) for look in looks]

    def _poll(self, file: SqliteFile) -> None:
        """Look at what is watched, if the file has changed; not at every chance, because there are too many."""
        if not self._watched or time.monotonic() < self._polled + POLL:
            return
        self._polled = time.monotonic()
        change = file.connection.execute("PRAGMA data_version").fetchone()[0]  # another one after each commit of others
        if change == self._seen:
            return
        now = time.time()
        news = [(key, record) for key in self._watched if (record := find(file.connection, key, now)) is not None]
        self._seen = change
        if self._post is not None:
            self._post(lambda: self._push(news))

    # ── in the event loop ──

    def _push(self, news: Sequence[tuple[str, Record]]) -> None:
        for key, record in news:
            self._watches.push(key, record)
