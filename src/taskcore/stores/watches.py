"""Watches: who looks at which key, and the latest record that each of them has not seen.

For stores that are told what is written, and whose versions of a key only grow. How news of a key begin and cease to
come is the store's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

import anyio

from taskcore.errors import BrokerUnavailable
from taskcore.store import Record

__all__ = ["Watch", "Watches"]


class Watches:
    """All watches of one store.

    :param begin: from now on news of this key have to come; returns the record as it is, unless it was pushed.
    :param end: nobody watches this key any more.
    """

    def __init__(self, begin: Callable[[str], Awaitable[Record | None]], end: Callable[[str], None]) -> None:
        self._begin = begin
        self._end = end
        self._by_key: dict[str, set[Watch]] = {}

    @property
    def keys(self) -> Iterable[str]:
        """What is watched."""
        return self._by_key.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)

    def watch(self, key: str) -> Watch:
        """A watch of one record, to be entered."""
        return Watch(self, key)

    async def enter(self, watch: Watch) -> None:
        """It gets each new record of its key, beginning with what is there."""
        self._by_key.setdefault(watch.key, set()).add(watch)
        try:
            record = await self._begin(watch.key)
        except BaseException:
            self.leave(watch)
            raise
        if record is not None:
            watch.push(record)

    def leave(self, watch: Watch) -> None:
        """It gets nothing any more."""
        watches = self._by_key[watch.key]
        watches.discard(watch)
        if not watches:
            del self._by_key[watch.key]
            self._end(watch.key)

    def push(self, key: str, record: Record) -> None:
        """A new record, to all who watch it."""
        for watch in self._by_key.get(key, ()):
            watch.push(record)

    def fail(self, error: BrokerUnavailable) -> None:
        """News do not come any more, and all who watch are told so."""
        for watches in self._by_key.values():
            for watch in watches:
                watch.fail(error)


class Watch:
    """One reader's view of one key: only the latest record that it has not seen is kept for it."""

    def __init__(self, watches: Watches, key: str) -> None:
        self.key = key
        self._watches = watches
        self._latest = 0
        self._news: Record | None = None
        self._error: BrokerUnavailable | None = None
        self._arrival = anyio.Event()

    async def __aenter__(self) -> Self:
        await self._watches.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watches.leave(self)

    def push(self, record: Record) -> None:
        """News may come on several ways; versions only grow, so what comes late is known."""
        if isinstance(record.version, int) and record.version > self._latest:
            self._latest = record.version
            self._news = record
            self._arrival.set()

    def fail(self, error: BrokerUnavailable) -> None:
        """Who waits is told, once."""
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
            self._arrival = anyio.Event()
        news, self._news = self._news, None
        return news
