"""Watching a record: pushed by the server, because every write of it is also heard by whoever listens to its subject.

What is heard is a hint only: the write may be refused by the stream, or not be stored yet. So we look, a few times if
need be; and every second or two anyway, because a hint can be lost while a connection is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from taskcore.connections.nats import NatsLink, Subscription
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record, Version

__all__ = ["Watch"]

LOOKS = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5)  #: seconds of pause before each look after a hint
ANYWAY = 2.0  #: seconds without a hint, after which we look


class Watch:
    """One reader's view of one key.

    :param look: gives the record as it is.
    """

    def __init__(self, link: NatsLink, subject: bytes, look: Callable[[], Awaitable[Record | None]]) -> None:
        self._link = link
        self._subject = subject
        self._look = look
        self._hints = 0
        self._hinted = asyncio.Event()
        self._seen: Version | None = None
        self._subscription: Subscription | None = None
        self._first: Record | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen, then look: so nothing is missed in between."""
        self._subscription = self._link.subscribe(self._subject, self._hint)
        try:
            self._first = await self._look()
        except BaseException:
            self._link.discard(self._subscription)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            self._link.discard(self._subscription)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if self._first is not None:
            first, self._first = self._first, None
            self._seen = first.version
            return first
        while True:
            record = await self._news()
            if record is not None:
                self._seen = record.version
                return record
            with suppress(TimeoutError):
                async with asyncio.timeout(ANYWAY):
                    await self._hinted.wait()

    async def _news(self) -> Record | None:
        """Look; after a hint a few times, until there is something new. One look is enough without a hint."""
        hinted = self._hinted.is_set()
        self._hinted.clear()
        for pause in LOOKS if hinted else LOOKS[:1]:
            await asyncio.sleep(pause)
            with suppress(BrokerUnavailable):  # it is asked again; and whoever waits has a time limit of his own
                record = await self._look()
                if record is not None and record.version != self._seen:
                    return record
            if self._hinted.is_set():
                return await self._news()
        return None

    def _hint(self, *_: bytes) -> None:
        self._hinted.set()
