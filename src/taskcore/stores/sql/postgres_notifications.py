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

import psycopg

from taskcore.connections.postgres.connection import Connection, PostgresAddress, connect, postgres_unavailable
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record
from taskcore.stores.sql.postgres_statements import CHANNEL, MARK, mark
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.logging import logger

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
        self._watches = Watches(begin=self._begin, end=self._end)
        self._keys: defaultdict[str, set[str]] = defaultdict(set)  # by their marks
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    def watch(self, key: str) -> Watch:
        """A watch of one record, to be entered."""
        return self._watches.watch(key)

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ── watches ──

    async def _begin(self, watch: Watch) -> None:
        """Listen first, then read: what is written in between is notified.

        :raises BrokerUnavailable: nobody can listen now.
        """
        self._keys[mark(watch.key)].add(watch.key)
        if self._task is None or self._task.done():
            self._listening = asyncio.Event()
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._address.timeout):
                await self._listening.wait()
        except TimeoutError as error:
            raise postgres_unavailable(error, self._address) from None
        await self._read([watch.key])

    def _end(self, key: str) -> None:
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
                self._watches.push(key, record)

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
            await self._read(tuple(self._watches.keys))
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
        self._watches.fail(known)
