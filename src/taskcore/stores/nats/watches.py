"""RecordFeed: records that are watched, read again after each write.

A write of a record is also a message to the subscribers of its subject. It is a hint only: the stream may refuse the
write, or not have stored it yet. So the record is read, a few times if need be; and every second or two anyway, because
a hint can be lost while a connection is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from taskcore.connections.nats import NatsLink, Subscription
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record, Version
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.tasks import TaskSet

__all__ = ["RecordFeed"]

READ_PAUSES: Final = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5)  #: seconds before each read after a hint
READ_EVERY: Final = 2.0  #: seconds without a hint, after which a record is read


class _Watched:
    """A record that is watched."""

    __slots__ = ("hinted", "seen", "subscription")

    def __init__(self, hinted: asyncio.Event, subscription: Subscription) -> None:
        self.hinted = hinted
        self.subscription = subscription
        self.seen: Version | None = None


class RecordFeed:
    """Shows the watches of one store each new version of their records.

    :param subject: returns the subject of a key.
    :param read: returns a record as it is.
    """

    def __init__(
        self, link: NatsLink, subject: Callable[[str], bytes], read: Callable[[str], Awaitable[Record | None]]
    ) -> None:
        self.watches = Watches(begin=self._begin, end=self._end)
        self._link = link
        self._subject = subject
        self._read = read
        self._watched: dict[str, _Watched] = {}
        self._tasks = TaskSet("NATS store")

    async def close(self) -> None:
        """Stop; watches that are still open end with an error."""
        self.watches.fail(BrokerUnavailable("the store was closed while a record was watched"), final=True)
        await self._tasks.cancel()

    async def _begin(self, watch: Watch) -> None:
        """Subscribe, then read: nothing is missed in between."""
        key = watch.key
        if key not in self._watched:
            hinted = asyncio.Event()
            subscription = self._link.subscribe(self._subject(key), lambda *_: hinted.set())
            self._watched[key] = watched = _Watched(hinted, subscription)
            self._tasks.start(self._follow(key, watched), name="taskcore-nats-watch")
        self._show(key, await self._read(key))

    def _end(self, key: str) -> None:
        watched = self._watched.pop(key)
        self._link.discard(watched.subscription)
        watched.hinted.set()

    async def _follow(self, key: str, watched: _Watched) -> None:
        while self._watched.get(key) is watched:
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY):
                    await watched.hinted.wait()
            pauses = READ_PAUSES if watched.hinted.is_set() else READ_PAUSES[:1]
            watched.hinted.clear()
            for pause in pauses:
                await asyncio.sleep(pause)
                if self._watched.get(key) is not watched or await self._show_news(key) or watched.hinted.is_set():
                    break

    async def _show_news(self, key: str) -> bool:
        """Read the record, and show it; False if it is not a new one."""
        try:
            return self._show(key, await self._read(key))
        except BrokerUnavailable:  # it is read again, and every reader has a time limit of its own
            return False

    def _show(self, key: str, record: Record | None) -> bool:
        watched, version = self._watched.get(key), record.version if record is not None else None
        for watch in self.watches.of(key):
            watch.show(record)
        if watched is None or version is None or version == watched.seen:
            return False
        watched.seen = version
        return True
