"""The connection for administration: declaring, counting, looking around. It never carries jobs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource, ChannelNotFoundEntity

from taskcore.connections.amqp.connection import Link, whole
from taskcore.connections.amqp.transport import Hearer, Lane, Wire

__all__ = ["Line", "Office"]

T = TypeVar("T")

TRY_AGAIN = (0.005, 0.03)  #: seconds, from and to, between two tries to be alone


class Line:
    """One connection of a backend, made when it is needed, and again when it was lost.

    :param purpose: its name in the server's own tools.
    """

    def __init__(self, link: Link, purpose: str) -> None:
        self._link = link
        self._purpose = purpose
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def wire(self) -> Wire | None:
        """The connection, if there is one that lives."""
        return self._wire if self._wire is not None and not self._wire.is_closed else None

    async def open(self) -> Wire:
        """The connection.

        :raises BrokerUnavailable: it cannot be made.
        """
        async with self._lock:
            if self._wire is not None and not self._wire.is_closed:
                return self._wire
            if self._closed:
                raise RuntimeError("this backend is closed: its verbs work inside of `async with` only")
            if self._wire is not None:
                await self._wire.close()
            self._wire = await self._link.connect(self._purpose)
            return self._wire

    async def close(self) -> None:
        """Hang up; it is not made again."""
        self._closed = True
        if self._wire is not None:
            await self._wire.close()


class Office:
    """Asks the broker things, one after the other, each within the time limit of the URL."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._line = Line(link, "admin")
        self._channel: Any = None
        self._one = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def line(self) -> Line:
        """The connection itself."""
        return self._line

    async def ask(self, what: str, question: Callable[[Any], Awaitable[T]]) -> T:
        """The answer to a question that is put on a channel.

        :param what: what is being done, for the text of an error.
        :raises BrokerUnavailable: no answer; or the answer was no, and the text says why.
        """

        async def answer() -> T:
            async with self._one:
                if self._channel is None or self._channel.is_closed:
                    wire = await self._line.open()
                    self._channel = await wire.channel()
                return await question(self._channel)

        with self.link.errors(what):
            return await whole(answer(), self.link.address.timeout)

    async def count(self, queue: str) -> int | None:
        """How many ready messages a queue has; None if there is no such queue."""

        async def question(channel: Any) -> int | None:
            try:
                declared = await channel.queue_declare(queue, passive=True)
            except ChannelNotFoundEntity:
                return None
            return int(declared.message_count or 0)

        return await self.ask(f"looking at queue {queue}", question)

    async def is_empty(self, queue: str) -> bool:
        """Whether a queue has no ready message, as its leader says, who is waited for.

        ``count`` is 0 also for a quorum queue whose leader is away, or has not recovered yet. The only question that
        its leader has to answer is for a message; one that is there after all is given back at once, and counts as
        handed out.

        :raises BrokerUnavailable: it has no leader, and none came in time.
        """

        async def question(channel: Any) -> bool:
            try:
                found = await channel.basic_get(queue)
            except ChannelNotFoundEntity:
                return True
            except ChannelAccessRefused:  # whoever may not read has to believe the count
                return True
            if found.delivery_tag is None:
                return True
            await channel.basic_reject(found.delivery_tag, requeue=True)
            return False

        return await self.ask(f"looking whether queue {queue} is empty", question)

    async def lane(self, hearer: Hearer) -> Lane:
        """A channel of its own, for looking through a queue."""

        async def make() -> Lane:
            return await (await self._line.open()).lane(hearer)

        with self.link.errors("opening a channel"):
            return await whole(make(), self.link.address.timeout)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else is in such a block at the same time, in no process.

        The lock is a queue that belongs to this connection, so it ends with it, whatever becomes of us.
        """

        async def take(channel: Any) -> bool:
            try:
                await channel.queue_declare(name, exclusive=True, auto_delete=True)
            except ChannelLockedResource:
                return False
            return True

        async def leave(channel: Any) -> None:
            await channel.queue_delete(name)

        async with self._locks.setdefault(name, asyncio.Lock()):
            while not await self.ask(f"waiting for {name}", take):  # noqa: ASYNC110 - the broker does not tell
                await asyncio.sleep(random.uniform(*TRY_AGAIN))
            try:
                yield
            finally:
                await self.ask(f"leaving {name}", leave)

    async def close(self) -> None:
        """Hang up."""
        await self._line.close()
