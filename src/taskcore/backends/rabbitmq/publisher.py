"""Sending: whole batches in one write, one wait for all their confirms.

Every message is persistent and mandatory: it is confirmed when it is durable, refused when its queue is full, returned
when nothing is bound for it. A returned message was surely not stored; then its queue is opened, and it is sent again.

What was written and not confirmed is uncertain, whatever the reason: no answer in time, connection lost, or the server
blocks publishers because it runs out of memory or disk. While we know that it blocks, nothing is written.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache

from taskcore.backend import STORED, Published, Refused, Stored, Uncertain
from taskcore.backends.rabbitmq.messages import Parcel
from taskcore.backends.rabbitmq.office import Line
from taskcore.connections.amqp import frames as amqp
from taskcore.connections.amqp.connection import Link, whole
from taskcore.connections.amqp.transport import Lane
from taskcore.errors import BrokerUnavailable

__all__ = ["LARGEST", "LARGEST_JOB", "NOWHERE", "Publisher", "unavailable"]

AT_ONCE = 1 << 20  #: bytes written before we look whether the server keeps up
LARGEST = 16 * 1024 * 1024 - 4096  #: bytes: from version 4 on the server closes the channel above it
LARGEST_JOB = 15 * 1024 * 1024  #: bytes of a job that is sent: the rest is for its trail, in retries and letters
PLACES = 4096  #: exchanges and keys whose first frame is kept packed

REFUSED = Refused("the broker refused it: its queue is full, or has no leader at the moment")
NOWHERE = Refused("nothing is bound for it")  #: returned by the server; the caller may open the queue and send again


class _Batch:
    """Parcels sent together, and how many of them have no answer yet."""

    __slots__ = ("answers", "done", "missing", "written")

    def __init__(self, count: int) -> None:
        self.answers: list[Published | None] = [None] * count
        self.missing = count
        self.written = False
        self.done = asyncio.Event()

    def answer(self, index: int, answer: Published) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.missing -= 1
            if not self.missing:
                self.done.set()


class _Confirms:
    """One channel in confirm mode: hears what became of each message."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(6)
        self.last = 0  # how many messages were sent
        self._open: dict[int, tuple[_Batch, int]] = {}  # by number, in the order in which they were sent

    def expect(self, batch: _Batch, index: int) -> bytes:
        """The next message; its id, which no other message ever has."""
        self.last += 1
        self._open[self.last] = (batch, index)
        return f"{self.mark}.{self.last:x}".encode()

    def delivered(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:
        """Nothing is consumed here."""

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        answer: Published = STORED if stored else REFUSED
        tags: Iterable[int] = (tag,)
        if multiple:
            tags = []
            for number in self._open:
                if number > tag:
                    break
                tags.append(number)
        for number in tags:
            found = self._open.pop(number, None)
            if found is not None:
                found[0].answer(found[1], answer)

    def returned(self, properties: bytes, why: str) -> None:  # noqa: ARG002 - there is one reason only
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        mark, _, number = amqp.read_properties(properties).message_id.partition(b".")
        if mark.decode(errors="replace") == self.mark:
            found = self._open.get(int(number, 16))  # its confirm follows, and is ignored
            if found is not None:
                found[0].answer(found[1], NOWHERE)

    def cancelled(self) -> None:
        """Nothing is consumed here."""

    def closed(self, why: str) -> None:
        """See :class:`taskcore.connections.amqp.transport.Hearer`."""
        for batch, index in self._open.values():
            batch.answer(index, Uncertain(f"no confirm came before the connection was lost: {why}"))
        self._open.clear()


class Publisher:
    """The connection for sending; nothing else is done there, because the server may block it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._line = Line(link, "publish")
        self._lane: Lane | None = None
        self._confirms: _Confirms | None = None
        self._opening = asyncio.Lock()

    @property
    def line(self) -> Line:
        """The connection itself."""
        return self._line

    async def send(self, parcels: Sequence[Parcel]) -> list[Published]:
        """One answer for each, in order.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        if not parcels:
            return []
        within = self._link.address.timeout
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        with self._link.errors("publishing"):
            lane, confirms = await whole(self._ready(), within)
        batch = _Batch(len(parcels))
        try:
            async with asyncio.timeout_at(until):
                await self._write(lane, confirms, parcels, batch)
                await batch.done.wait()
        except (TimeoutError, OSError) as error:
            if not batch.written:
                with self._link.errors("publishing"):
                    raise
            why = lane.wire.blocked or lane.wire.why or f"{error}" or f"no confirm came within {within:g} s"
            if lane.wire.blocked:
                why = f"the broker blocks publishers: {why}"
            for index, answer in enumerate(batch.answers):
                if answer is None:
                    batch.answers[index] = Uncertain(why)
        return [answer for answer in batch.answers if answer is not None]

    async def renew(self) -> None:
        """Send through another channel from now on."""
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.close()

    async def close(self) -> None:
        """Hang up."""
        await self._line.close()

    async def _ready(self) -> tuple[Lane, _Confirms]:
        """A channel that takes messages now.

        :raises TimeoutError: the server still blocks publishers; nothing was sent.
        """
        async with self._opening:
            wire = await self._line.open()
            if wire.blocked:
                await wire.unblocked.wait()
            if self._lane is None or self._confirms is None or self._lane.is_closed or self._lane.wire is not wire:
                self._confirms = _Confirms()
                self._lane = await wire.lane(self._confirms, confirms=True)
            return self._lane, self._confirms

    async def _write(self, lane: Lane, confirms: _Confirms, parcels: Sequence[Parcel], batch: _Batch) -> None:
        """Everything, in large pieces; between giving a message its number and writing it nobody else may run."""
        written = 0
        packed: list[bytes] = []
        frame_max, number = lane.wire.frame_max, lane.number
        for index, parcel in enumerate(parcels):
            if len(parcel.body) > LARGEST:
                batch.answer(index, Refused(f"{len(parcel.body):,} bytes are more than the broker takes"))
                continue
            if lane.is_closed:
                raise ConnectionError(lane.why)
            one = _place(number, parcel.exchange, parcel.key, frame_max).pack(
                confirms.expect(batch, index), parcel.headers, parcel.body
            )
            packed.append(one)
            written += len(one)
            batch.written = True
            if written > AT_ONCE:
                lane.write(b"".join(packed))
                packed, written = [], 0
                await lane.wire.drain()
        if packed:
            lane.write(b"".join(packed))


@lru_cache(PLACES)
def _place(channel: int, exchange: str, key: str, frame_max: int) -> amqp.publisher:
    return amqp.publisher(channel, exchange, key, frame_max)


def unavailable(answers: Sequence[Published]) -> BrokerUnavailable | None:
    """The error that says that not everything was stored; None if it was."""
    for answer in answers:
        if not isinstance(answer, Stored):
            why = answer.why if isinstance(answer, Refused | Uncertain) else repr(answer)
            return BrokerUnavailable("a copy of a job could not be stored", facts=[why], fix="it is tried again")
    return None
