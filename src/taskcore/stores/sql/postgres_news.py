"""News: what is written is pushed to those who watch it, by LISTEN and NOTIFY.

One connection listens for all watches of a store, and only while there are any. A notification holds short marks of
keys and no values; what it may be about is read again. So nothing is missed by whoever reads once after it has begun
to listen: at the start of a watch, and after each connection that was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import psycopg

from taskcore.errors import BrokerUnavailable
from taskcore.links.postgres import Connection, PostgresAddress, connect, postgres_unavailable
from taskcore.logs import logger
from taskcore.store import Record
from taskcore.stores.sql.postgres_statements import CHANNEL, MARK, mark

__all__ = ["News"]

log = logger("taskcore.stores.sql")

QUIET = 10.0  #: seconds without news, after which the connection is tried: it may be half open
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two attempts to listen again
PATIENCE = 30.0  #: seconds without a server, after which those who watch are told

Find = Callable[[Sequence[str]], Awaitable[dict[str, Record]]]


class News:
    """All watches of one store.

    :param find: reads records.
    """

    def __init__(self, address: PostgresAddress, find: Find) -> None:
        self._address = address
        self._find = find
        self._watches: defaultdict[str, set[_Watch]] = defaultdict(set)
        self._keys: defaultdict[str, set[str]] = defaultdict(set)  # by their marks
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    def watch(self, key: str) -> _Watch:
        """A watch of one record, to be entered."""
        return _Watch(self, key)

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ── watches ──

    async def begin(self, watch: _Watch, key: str) -> None:
        """Listen first, then read: what is written in between is notified.

        :raises BrokerUnavailable: nobody can listen now.
        """
        self._watches[key].add(watch)
        self._keys[mark(key)].add(key)
        if self._task is None or self._task.done():
            self._listening = asyncio.Event()
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._address.timeout):
                await self._listening.wait()
        except TimeoutError as error:
            raise postgres_unavailable(error, self._address) from None
        await self._read([key])

    def end(self, watch: _Watch, key: str) -> None:
        """It gets nothing any more."""
        self._watches[key].discard(watch)
        if not self._watches[key]:
            del self._watches[key]
            keys = self._keys[mark(key)]
            keys.discard(key)
            if not keys:
                del self._keys[mark(key)]

    async def _read(self, keys: Iterable[str]) -> None:
        wanted = [key for key in keys if key in self._watches]
        found = await self._find(wanted) if wanted else {}
        for key in wanted:
            record = found.get(key)
            if record is not None:
                for watch in self._watches.get(key, ()):
                    watch.push(record)

    # ── listening ──

    async def _run(self) -> None:
        """Listen, and listen again after each loss, until nobody watches."""
        pause, lost = FIRST_PAUSE, None
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, BrokerUnavailable) as error:
                was_listening, self._listening = self._listening.is_set(), asyncio.Event()
                if was_listening:
                    log.warning("PostgreSQL at %s: not listening any more: %s", self._address.shown, error)
                    pause, lost = FIRST_PAUSE, None
                lost = loop.time() if lost is None else lost
                if loop.time() - lost >= PATIENCE:
                    self._tell(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return

    async def _listen(self) -> None:
        async with asyncio.timeout(self._address.timeout):
            connection = await connect(self._address)
        try:
            async with asyncio.timeout(self._address.timeout):
                await connection.execute(f"LISTEN {CHANNEL}")
            self._listening.set()
            await self._read(tuple(self._watches))
            while self._watches:
                await self._hear(connection)
        finally:
            connection.pgconn.finish()

    async def _hear(self, connection: Connection) -> None:
        """Whatever comes next; if nothing does, see whether the connection is alive."""
        heard = False
        async for notification in connection.notifies(timeout=QUIET, stop_after=1):
            heard = True
            text = notification.payload
            marks = [text[start : start + MARK] for start in range(0, len(text), MARK)]
            await self._read([key for one in marks for key in tuple(self._keys.get(one, ()))])
        if not heard:
            async with asyncio.timeout(self._address.timeout):
                await connection.execute("SELECT 1")

    def _tell(self, error: BaseException) -> None:
        """Those who watch would wait in vain."""
        known = error if isinstance(error, BrokerUnavailable) else postgres_unavailable(error, self._address)
        for watches in self._watches.values():
            for watch in watches:
                watch.fail(known)


class _Watch:
    """One reader's view of one key: only the latest record that it has not seen is kept for it."""

    def __init__(self, news: News, key: str) -> None:
        self._source = news
        self._key = key
        self._latest = 0
        self._news: Record | None = None
        self._error: BrokerUnavailable | None = None
        self._arrival = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._source.begin(self, self._key)
        except BaseException:
            self._source.end(self, self._key)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.end(self, self._key)

    def push(self, record: Record) -> None:
        """Several reads may be under way; versions only grow, so what comes late is known."""
        if isinstance(record.version, int) and record.version > self._latest:
            self._latest = record.version
            self._news = record
            self._arrival.set()

    def fail(self, error: BrokerUnavailable) -> None:
        self._error = error
        self._arrival.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        while self._news is None:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            await self._arrival.wait()
            self._arrival.clear()
        news, self._news = self._news, None
        return news
