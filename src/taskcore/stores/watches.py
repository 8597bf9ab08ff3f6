"""Watches: which readers wait for which record, and the latest record that each of them has not seen. For all stores.

A store feeds its watches in one of two ways:

    push    it learns what was written, perhaps out of order; its versions of a key only grow (memory, SQL)
    show    it learns that something was written, and reads the record again; reads come in order (Redis, NATS)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, Self

import anyio

from taskcore.store import Record
from taskcore.stores.limits import Failure, check_names

__all__ = ["Watch", "WatchHost", "Watches"]


class WatchHost(Protocol):
    """The object that feeds a watch between its entry and its exit."""

    async def enter(self, watch: Watch) -> None:
        """Begin to feed the watch, first with the record as it is."""
        ...

    def leave(self, watch: Watch) -> None:
        """Stop feeding the watch."""
        ...


class Watch:
    """One reader's view of one record: only the latest that it has not seen is kept."""

    __slots__ = ("_arrival", "_error", "_final", "_host", "_seen", "_unread", "entered", "key")

    def __init__(self, host: WatchHost, key: str) -> None:
        self.key = key
        self.entered = False  #: whether the record was read since the watch was entered
        self._host = host
        self._unread: Record | None = None
        self._seen: object = None  # the version that came last
        self._error: Failure | None = None
        self._final = False  # whether the error stays
        self._arrival: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        await self._host.enter(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._host.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        while self._unread is None:
            await self._wait()
        record, self._unread = self._unread, None
        return record

    async def shown(self) -> None:
        """Wait until the record was read.

        :raises BrokerUnavailable, UnreadableRecord: the watch failed before.
        """
        while not self.entered:
            await self._wait()

    # ── feeding ──

    def push(self, record: Record) -> None:
        """Take a record that was written; ignore one that arrives after a newer one."""
        if isinstance(record.version, int) and (not isinstance(self._seen, int) or record.version > self._seen):
            self._take(record)

    def show(self, record: Record | None) -> None:
        """Take the record that was just read, unless it came last time; None if it does not exist."""
        self.entered = True
        if record is not None and record.version != self._seen:
            self._take(record)
        else:
            self._wake()

    def fail(self, error: Failure, *, final: bool = False) -> None:
        """Raise the error in the waiting reader: once, or, if final, for ever."""
        self._error, self._final = error, final
        self._wake()

    def _take(self, record: Record) -> None:
        self._unread, self._seen = record, record.version
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            error = self._error
            if not self._final:
                self._error = None
            raise error
        if self._arrival is None:
            self._arrival = anyio.Event()
        await self._arrival.wait()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None


class Watches:
    """All watches of one store, by key.

    :param begin: feeds the watch from now on; returns the record as it is, unless it was fed already.
    :param end: called with a key when its last watch has left.
    """

    def __init__(self, begin: Callable[[Watch], Awaitable[Record | None]], end: Callable[[str], None]) -> None:
        self._begin = begin
        self._end = end
        self._by_key: dict[str, set[Watch]] = {}

    @property
    def keys(self) -> Iterable[str]:
        """The keys that are watched."""
        return self._by_key.keys()

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: str) -> Sequence[Watch]:
        """Return the watches of a key as they are now."""
        return tuple(self._by_key.get(key, ()))

    def watch(self, key: str) -> Watch:
        """Return a watch of one record, to be entered."""
        return Watch(self, key)

    async def enter(self, watch: Watch) -> None:
        """Feed the watch from now on, first with the record as it is."""
        check_names((watch.key,))
        self._by_key.setdefault(watch.key, set()).add(watch)
        try:
            record = await self._begin(watch)
        except BaseException:
            self.leave(watch)
            raise
        watch.entered = True
        if record is not None:
            watch.push(record)

    def leave(self, watch: Watch) -> None:
        """Stop feeding the watch."""
        watches = self._by_key.get(watch.key, set())
        watches.discard(watch)
        if not watches and self._by_key.pop(watch.key, None) is not None:
            self._end(watch.key)

    def push(self, key: str, record: Record) -> None:
        """Give a new record to all watches of its key."""
        for watch in self._by_key.get(key, ()):
            watch.push(record)

    def fail(self, error: Failure, *, entering: bool = False, final: bool = False) -> None:
        """Fail all watches, or only those that have not read their record yet."""
        for watches in self._by_key.values():
            for watch in watches:
                if not (entering and watch.entered):
                    watch.fail(error, final=final)
