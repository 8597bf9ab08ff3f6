"""One reader's view of one record."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from taskcore.errors import BrokerUnavailable
from taskcore.store import Record

__all__ = ["Watch"]


class Keeper(Protocol):
    """Who shows records to watches."""

    async def enter(self, watch: Watch) -> None:
        """Begin to show it the record."""
        ...

    def leave(self, watch: Watch) -> None:
        """Show it nothing any more."""
        ...


class Watch:
    """One reader's view of one record: only the latest that it has not seen is kept for it."""

    __slots__ = ("_arrival", "_error", "_news", "_seen", "_watches", "entered", "key")

    def __init__(self, watches: Keeper, key: str) -> None:
        self.key = key
        self.entered = False  #: whether the record was looked at
        self._watches = watches
        self._news: Record | None = None
        self._seen: object = None  # the version shown last
        self._error: BrokerUnavailable | None = None
        self._arrival: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        await self._watches.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watches.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        while self._news is None:
            await self._wait()
        news, self._news = self._news, None
        return news

    async def shown(self) -> None:
        """Wait until the record was looked at."""
        while not self.entered:
            await self._wait()

    def show(self, record: Record | None) -> None:
        """The record as it is now."""
        self.entered = True
        if record is not None and record.version != self._seen:
            self._news, self._seen = record, record.version
        self._wake()

    def fail(self, error: BrokerUnavailable) -> None:
        """There will be nothing more to see."""
        self._error = error
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self._arrival is None:
            self._arrival = asyncio.Event()
        await self._arrival.wait()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None
