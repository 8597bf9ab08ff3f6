"""Notifications: written records are pushed to their watches, by LISTEN and NOTIFY.

One connection listens for all watches of a store, and only while there are any. A notification holds short hashes of
keys and no values; the records that it may be about are read again. Every record is also read once after listening has
begun, at the start of a watch and after each lost connection, so nothing is missed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

import psycopg

from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.session import Connection, connect, postgres_unavailable
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record
from taskcore.stores.sql.postgres.layout import CHANNEL, MARK, mark
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["Notifications"]

log = logger("taskcore.stores.sql")

QUIET = 10.0  #: seconds without a notification before the connection is tested: it may be half open
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two attempts to listen again
FAIL_AFTER = 30.0  #: seconds without a server before watches fail

Find = Callable[[Sequence[str]], Awaitable[dict[str, Record]]]


class Notifications:
    """Feeds all watches of one store.

    :param find: reads records.
    """

    def __init__(self, address: PostgresAddress, find: Find) -> None:
        self._address = address
        self._find = find
        self._watches = Watches(begin=self._begin, end=self._end)
        self._keys: defaultdict[str, set[str]] = defaultdict(set)  # by their hashes
        self._tasks = TaskSet("PostgreSQL store")
        self._listening = asyncio.Event()

    def watch(self, key: str) -> Watch:
        """Return a watch of one record, to be entered."""
        return self._watches.watch(key)

    async def close(self) -> None:
        """Stop listening."""
        await self._tasks.cancel()

    # ── watches ──

    async def _begin(self, watch: Watch) -> None:
        """Listen first, then read: a write in between is notified.

        :raises BrokerUnavailable: the server cannot be listened to now.
        """
        self._keys[mark(watch.key)].add(watch.key)
        if not self._tasks:
            self._listening = asyncio.Event()
            self._tasks.start(self._run())
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
        """Listen, and listen again after each lost connection, until no record is watched."""
        pause, lost = FIRST_PAUSE, None
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, BrokerUnavailable) as error:
                was_listening, self._listening = self._listening.is_set(), asyncio.Event()
                if was_listening:
                    log.warning(
                        "lost the connection that listens to PostgreSQL at %s; reconnecting: %s",
                        self._address.shown,
                        error,
                    )
                    pause, lost = FIRST_PAUSE, None
                lost = loop.time() if lost is None else lost
                if loop.time() - lost >= FAIL_AFTER:
                    self._fail(error)
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
                await self._receive(connection)
        finally:
            connection.pgconn.finish()

    async def _receive(self, connection: Connection) -> None:
        """Take the next notification; if none comes, test the connection."""
        received = False
        async for notification in connection.notifies(timeout=QUIET, stop_after=1):
            received = True
            text = notification.payload
            marks = [text[start : start + MARK] for start in range(0, len(text), MARK)]
            await self._read([key for one in marks for key in tuple(self._keys.get(one, ()))])
        if not received:
            async with asyncio.timeout(self._address.timeout):
                await connection.execute("SELECT 1")

    def _fail(self, error: BaseException) -> None:
        """Fail all watches, which would wait in vain."""
        known = error if isinstance(error, BrokerUnavailable) else postgres_unavailable(error, self._address)
        self._watches.fail(known)
