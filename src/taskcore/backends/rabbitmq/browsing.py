"""Looking through a queue without taking anything away.

The protocol has no way to look: whoever sees a message has it, until it is given back. So a queue that is looked
through (dead letters, names) has one reader at a time, over all connections and processes, and each sees all of it.
What he does not drop goes back, in its order, when he leaves; also when he is killed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from taskcore.backends.rabbitmq.office import Office
from taskcore.connections.amqp import frames as amqp
from taskcore.connections.amqp.connection import whole
from taskcore.connections.amqp.frames import Properties, read_properties
from taskcore.connections.amqp.transport import Lane

__all__ = ["Reading", "Sheet", "browse"]

WINDOW = 500  #: messages asked for at once
LOOKS, LOOK = 40, 0.005  #: how often we look whether all is back, and seconds in between
GLANCE = 0.1  #: seconds without a message, after which we look whether there is one


class Sheet(msgspec.Struct, frozen=True):
    """One message, seen and not taken."""

    tag: int
    properties: Properties
    body: bytes


class Reading:
    """One pass through a queue, from its head.

    :param there: how many messages there were when it began; what comes later is left to the next one. 0 is not
        believed, because a node says so of every queue in its first seconds after a start: all that comes is read then.
    """

    def __init__(self, office: Office, queue: str, there: int) -> None:
        self._office = office
        self._queue = queue
        self._there = there or math.inf
        self._come: deque[Sheet] = deque()
        self._news = asyncio.Event()
        self._why = ""
        self._consumer = ""
        self.seen = 0
        self.dropped = 0
        self.lane: Lane | None = None

    async def sheets(self) -> AsyncIterator[Sheet]:
        """Every message, oldest first."""
        while self.seen < self._there:
            await self._ask_for_more()
            for _ in range(WINDOW):
                if self.seen == self._there or (not self._come and not await self._more()):
                    return
                self.seen += 1
                yield self._come.popleft()

    def drop(self, sheet: Sheet) -> None:
        """Take this one away."""
        if self.lane is not None:
            self.dropped += 1
            self.lane.write(amqp.ack(self.lane.number, sheet.tag, multiple=False))

    async def _ask_for_more(self) -> None:
        lane, within = self.lane, self._office.link.address.timeout
        if lane is None:
            return

        async def consume() -> None:
            lane.write(self.goodbye())
            await lane.sync(within, WINDOW)
            self._consumer = f"window {self.seen}"
            await lane.channel.basic_consume(self._queue, _nobody, consumer_tag=self._consumer)

        await whole(consume(), within)

    def goodbye(self) -> bytes:
        """The frame after which nothing more comes."""
        return amqp.cancel(self.lane.number, self._consumer) if self._consumer and self.lane is not None else b""

    async def _more(self) -> bool:
        """Wait for the next message; False if there is none, because the broker threw some away meanwhile."""
        while not self._come:
            self._news.clear()
            if self._why:
                raise ConnectionError(self._why)
            try:
                async with asyncio.timeout(GLANCE):
                    await self._news.wait()
            except TimeoutError:
                counted = await self._office.count(self._queue)
                if self.lane is not None:
                    await self.lane.sync(self._office.link.address.timeout, WINDOW)  # what was on its way has come
                if not self._come and (not counted or self._there == math.inf):  # who was wrong once is not believed
                    return False
        return True

    # ── what a lane tells ──

    def delivered(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:  # noqa: ARG002
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        self._come.append(Sheet(tag, read_properties(properties), body))
        self._news.set()

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def returned(self, properties: bytes, why: str) -> None:
        """Nothing is published here."""

    def cancelled(self) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        self.closed("the queue was deleted meanwhile")

    def closed(self, why: str) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        self._why = why
        self._news.set()


@asynccontextmanager
async def browse(office: Office, queue: str) -> AsyncIterator[Reading | None]:
    """A pass through a queue; None if there is no such queue. Use it for a short time: nobody else can look meanwhile.

    :raises BrokerUnavailable: it took too long, or the connection was lost; then nothing was taken away.
    """
    within = office.link.address.timeout
    with office.link.errors(f"looking through {queue}"):
        async with asyncio.timeout(within), office.alone(f"{queue}.reader"):
            there = await office.count(queue)
            if there is None:
                yield None
                return
            reading = Reading(office, queue, there)
            reading.lane = await office.lane(reading)
            try:
                yield reading
                await _leave(reading, within)
            finally:
                await reading.lane.close()
            for _ in range(LOOKS):  # the next reader counts what there is, so all of it has to be back
                if (await office.count(queue) or 0) >= (there or reading.seen) - reading.dropped:
                    break
                await asyncio.sleep(LOOK)


async def _leave(reading: Reading, within: float) -> None:
    """Give back what was not dropped, and be sure that what was dropped is."""
    lane = reading.lane
    if lane is not None:
        # In one write, so that the next reader finds everything: first nothing more comes, then all goes back (0: all).
        lane.write(reading.goodbye() + amqp.nack(lane.number, 0, multiple=True))
        await lane.sync(within, WINDOW)


async def _nobody(_: object) -> None:
    """What the library would call; the lane is faster."""
