"""Looking through a queue without taking anything away.

The protocol has no way to look: whoever sees a message has it, until it is given back. So a queue that is looked
through (dead letters, names) lets one reader in at a time, over all connections and processes, and each sees all of it.
What he does not drop goes back, in its order, when he leaves; also when he is killed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from taskcore.backends.rabbitmq.office import Office
from taskcore.links import amqp
from taskcore.links.amqp import Properties, read_properties
from taskcore.links.rabbitmq import whole
from taskcore.links.rabbitmq_wire import Lane

__all__ = ["Reading", "Sheet", "browse"]

WINDOW = 500  #: messages asked for at once
GLANCE = 0.02  #: seconds between two looks whether there is more; in between, whoever looked before us gives back
LOOKS = 2  #: looks that have to find nothing, one after the other


class Sheet(msgspec.Struct, frozen=True):
    """One message, seen and not taken."""

    tag: int
    properties: Properties
    body: bytes


class Reading:
    """One pass through a queue, from its head."""

    def __init__(self, office: Office, queue: str) -> None:
        self._office = office
        self._queue = queue
        self._come: deque[Sheet] = deque()
        self._news = asyncio.Event()
        self._seen = 0
        self._why = ""
        self._consumer = ""
        self.lane: Lane | None = None

    async def sheets(self) -> AsyncIterator[Sheet]:
        """Every message, oldest first."""
        while True:
            await self._ask_for_more()
            for _ in range(WINDOW):
                if not self._come and not await self._more():
                    return
                self._seen += 1
                yield self._come.popleft()

    def drop(self, sheet: Sheet) -> None:
        """Take this one away."""
        if self.lane is not None:
            self.lane.write(amqp.ack(self.lane.number, sheet.tag, multiple=False))

    async def _ask_for_more(self) -> None:
        lane, within = self.lane, self._office.link.address.timeout
        if lane is None:
            return

        async def consume() -> None:
            lane.write(self.goodbye())
            await lane.sync(within, WINDOW)
            self._consumer = f"window {self._seen}"
            await lane.channel.basic_consume(self._queue, _nobody, consumer_tag=self._consumer)

        await whole(consume(), within)

    def goodbye(self) -> bytes:
        """The frame after which nothing more comes."""
        return amqp.cancel(self.lane.number, self._consumer) if self._consumer and self.lane is not None else b""

    async def _more(self) -> bool:
        """Whether another message comes: it is there, or somebody else is looking through it at the moment."""
        looks = 0
        while not self._come:
            self._news.clear()
            if self._why:
                raise ConnectionError(self._why)
            counted = await self._office.count(self._queue)
            if self.lane is not None:
                await self.lane.sync(self._office.link.address.timeout, WINDOW)  # what was on its way has come
            if self._come:
                break
            looks = looks + 1 if counted is None or (counted[0] == 0 and counted[1] <= 1) else 0
            if looks == LOOKS:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(GLANCE):
                    await self._news.wait()
        return True

    # ── what a lane tells ──

    def delivered(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:  # noqa: ARG002
        """See :class:`taskcore.links.rabbitmq_wire.Hearer`."""
        self._come.append(Sheet(tag, read_properties(properties), body))
        self._news.set()

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def returned(self, properties: bytes, why: str) -> None:
        """Nothing is published here."""

    def closed(self, why: str) -> None:
        """See :class:`taskcore.links.rabbitmq_wire.Hearer`."""
        self._why = why
        self._news.set()


@asynccontextmanager
async def browse(office: Office, queue: str) -> AsyncIterator[Reading | None]:
    """A pass through a queue; None if there is no such queue. Use it for a short time: nobody else can look meanwhile.

    :raises BrokerUnavailable: it took too long, or the connection was lost; then nothing was taken away.
    """
    if await office.count(queue) is None:
        yield None
        return
    reading = Reading(office, queue)
    with office.link.errors(f"looking through {queue}"):
        reading.lane = lane = await office.lane(reading)
        try:
            async with asyncio.timeout(office.link.address.timeout):
                yield reading
                await _leave(reading, office.link.address.timeout)
        finally:
            await lane.close()


async def _leave(reading: Reading, within: float) -> None:
    """Give back what was not dropped, and be sure that what was dropped is."""
    lane = reading.lane
    if lane is not None:
        # In one write, so that the next reader finds everything: first nothing more comes, then all goes back (0: all).
        lane.write(reading.goodbye() + amqp.nack(lane.number, 0, multiple=True))
        await lane.sync(within, WINDOW)


async def _nobody(_: object) -> None:
    """What the library would call; the lane is faster."""
