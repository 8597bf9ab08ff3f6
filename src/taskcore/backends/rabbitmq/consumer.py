"""One queue of a source: its channel, its consumer, what has come and is not handed out, and what is held.

The broker pushes, and what it has pushed is in nobody else's reach. So the consumer asks for as many messages as its
source was asked for, and when nobody asks any more it is stopped, and what has come meanwhile is given back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from taskcore.backend import Delivery
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.messages import split, whole_number
from taskcore.connections.amqp import frames as amqp
from taskcore.connections.amqp.transport import Lane, Wire
from taskcore.toolkit.logging import logger

__all__ = ["Held", "Stream"]

log = logger("taskcore.rabbitmq")

MOST = 2_000  #: messages that a consumer asks for
LOOKS, GLANCE = 50, 0.005  #: how often, and seconds in between, before a consumer is stopped although more may come

COUNTED, BEFORE, ID = b"x-delivery-count", b"tc-before", b"tc-id"


class Held:
    """A delivery that was handed out: the receipt. It is worth something as long as its lane is open.

    ``state``: held, settling (its verdict is being carried out), or over.
    ``way``: how it leaves us when it is settled: done, or as it is, back to its queue or to the dead letters.
    """

    __slots__ = ("expires", "id", "message_id", "redeliveries", "state", "stream", "tag", "turn", "way")

    HELD, SETTLING, OVER = range(3)
    DONE, BACK, DEAD = range(3)

    def __init__(self, stream: Stream, tag: int, redeliveries: int, message_id: bytes, job_id: str) -> None:
        self.stream = stream
        self.turn = stream.turn
        self.tag = tag
        self.redeliveries = redeliveries
        self.message_id = message_id
        self.id = job_id
        self.expires = 0.0
        self.state = Held.HELD
        self.way = Held.DONE

    @property
    def is_alive(self) -> bool:
        """Whether the channel that it came through is still open."""
        return self.turn == self.stream.turn and self.stream.is_open


class Stream:
    """One queue of a source.

    :param counts: whether the broker counts redeliveries of this kind of queue.
    :param news: called when something has come, or the channel is gone.
    """

    def __init__(
        self, queue: str, *, counts: bool, news: Callable[[], None], look: Callable[[str], Awaitable[object]]
    ) -> None:
        self.queue = queue
        self.turn = 0  # grows with each channel
        self.come: deque[tuple[int, bytes, bytes, bool]] = deque()
        self.unsettled: dict[int, Held | None] = {}  # by tag, in the order in which they came
        self.lane: Lane | None = None
        self.prefetch = 0
        self.is_consuming = False
        self.may_end = asyncio.Event()  # whether deliveries may be acknowledged now
        self.may_end.set()
        self._counts = counts
        self._news = news
        self._look = look
        self._consumers = 0

    @property
    def is_open(self) -> bool:
        """Whether it has a channel that lives."""
        return self.lane is not None and not self.lane.is_closed

    @property
    def credit(self) -> int:
        """How many more messages the broker may push."""
        return self.prefetch - len(self.unsettled) if self.is_consuming and self.is_open else 0

    def wants(self) -> bool:
        """Whether the consumer has to be started, or started anew with more room."""
        return self.credit < 1

    # ── consuming ──

    async def start(self, wire: Wire, limit: int, within: float) -> None:
        """Begin to consume, with room for so many jobs beside those that are held."""
        lane = self.lane
        if lane is None or lane.is_closed or lane.wire is not wire:
            self.turn += 1
            lane = self.lane = await wire.lane(_Turn(self, self.turn))
            self.is_consuming = False
        if self.is_consuming:
            await self.stop(within)
        self.prefetch = min(len(self.unsettled) + limit, 65_535)
        await lane.sync(within, self.prefetch)
        self._consumers += 1
        await lane.channel.basic_consume(names.jobs(self.queue), _nobody, consumer_tag=f"jobs {self._consumers}")
        self.is_consuming = lane is self.lane and not lane.is_closed

    async def stop(self, within: float) -> None:
        """Stop consuming; what is held stays held. Nothing is acknowledged meanwhile.

        What the broker has pushed and we have not got when it hears of the stop, it takes back, and counts it. So first
        all comes that may come: until there is no room for more, or nothing is left.
        """
        lane = self.lane
        if not self.is_consuming or lane is None or lane.is_closed:
            return
        self.may_end.clear()
        try:
            for _ in range(LOOKS):
                if self.credit < 1 or not await self._look(names.jobs(self.queue)):
                    break
                await asyncio.sleep(GLANCE)
            await lane.sync(within, self.prefetch)  # what was on its way has come
            self.is_consuming = False
            await lane.channel.basic_cancel(f"jobs {self._consumers}")
        finally:
            self.may_end.set()

    async def close(self) -> None:
        """Close the channel; what is held goes back to the queue."""
        if self.lane is not None:
            await self.lane.close()

    def cancelled(self) -> None:
        """The broker stopped the consumer."""
        log.warning("RabbitMQ stopped our consumer of queue %s: was the queue deleted?", self.queue)
        self.is_consuming = False
        self._news()

    # ── handing out ──

    def hand_out(self, expires: float) -> Delivery:
        """The next delivery, held from now on."""
        tag, raw, body, again = self.come.popleft()
        properties = amqp.read_properties(raw)
        counted = whole_number(properties, COUNTED) if self._counts else int(again)
        job_id = properties.headers.get(ID, b"")
        name = job_id.decode(errors="replace") if isinstance(job_id, bytes) else ""
        held = Held(self, tag, whole_number(properties, BEFORE) + counted, properties.message_id, name)
        held.expires = expires
        self.unsettled[tag] = held
        envelope, trail, _ = split(properties, body)
        return Delivery(self.queue, envelope, trail, held.redeliveries, held)

    # ── settling ──

    def end(self, ended: Iterable[Held]) -> bytes:
        """The frames that end these deliveries: one for all up to the first that stays, one for each behind it."""
        if self.lane is None:
            return b""
        number, done = self.lane.number, set[int]()
        frames: list[bytes] = []
        for held in ended:
            if held.way == Held.DONE:
                done.add(held.tag)
            else:
                self.unsettled.pop(held.tag, None)
                frames.append(amqp.reject(number, held.tag, back=held.way == Held.BACK))
        first: list[int] = []
        for tag in self.unsettled:
            if tag not in done:
                break
            first.append(tag)
        if first:
            frames.append(amqp.ack(number, first[-1], multiple=len(first) > 1))
        frames += [amqp.ack(number, tag, multiple=False) for tag in sorted(done.difference(first))]
        for tag in done:
            self.unsettled.pop(tag, None)
        return b"".join(frames)

    def give_back(self, held: Held) -> None:
        """A lease ran out: the broker may hand the job out again, and counts it."""
        self.unsettled.pop(held.tag, None)
        if held.is_alive and self.lane is not None:
            self.lane.write(amqp.reject(self.lane.number, held.tag, back=True))

    def lose(self, turn: int) -> None:
        """The channel of this turn is closed: whatever came through it is somebody else's."""
        if turn == self.turn:
            self.come.clear()
            self.unsettled.clear()
            self.is_consuming = False
            self._news()

    def hear(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:
        """Something came."""
        self.unsettled[tag] = None
        self.come.append((tag, properties, body, again))
        self._news()


class _Turn:
    """What the lane of one turn tells, to the stream that has perhaps another one by now."""

    def __init__(self, stream: Stream, turn: int) -> None:
        self._stream = stream
        self._turn = turn

    def delivered(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        self._stream.hear(tag, properties, body, again=again)

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def returned(self, properties: bytes, why: str) -> None:
        """Nothing is published here."""

    def cancelled(self) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        self._stream.cancelled()

    def closed(self, why: str) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        log.debug("queue %s: %s", self._stream.queue, why)
        self._stream.lose(self._turn)


async def _nobody(_: object) -> None:
    """What the library would call; the lane is faster."""
