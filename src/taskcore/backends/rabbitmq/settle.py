"""Leases and verdicts.

The lease. RabbitMQ has none: a job belongs to a channel while the channel is open. Seconds are counted here: a job that
is not extended for ``lease`` seconds is requeued by this process and can no longer be settled. A process that hangs as
a whole cannot do that. The broker notices its silence after two to three heartbeats; when the process wakes up, its own
clock and its dead channel both show that the job is lost.

The verdict. A copy of the job (retry, dead letter, release) is published and confirmed first, then the job itself is
acknowledged, then the answer of a later call on the same channel proves that the acknowledgement was handled: it has no
reply of its own. A job that is too large for a copy with its new trail is not tried again: the settler hears that, and
buries it. What is too large for any copy is rejected: the broker itself moves it to the dead letters, or requeues it.

    rabbitmq.retry.copied      the retry is stored, its original is still held
    rabbitmq.bury.written      the dead letter is stored, its original is still held
    rabbitmq.release.copied    the released copy is stored, its original is still held
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, assert_never

from msgspec.structs import replace

from taskcore.backend import Delivery, Outgoing, Refused, Stored, Uncertain, VerdictRefused
from taskcore.backends.limits import NoRoom
from taskcore.backends.rabbitmq.consumer import Consumer, Receipt
from taskcore.backends.rabbitmq.messages import RabbitMessage, job_id_of, message_of
from taskcore.backends.rabbitmq.publish import Sender, unavailable
from taskcore.connections.amqp.connection import Connector, ReconnectingConnection
from taskcore.connections.amqp.frames import Properties
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger

__all__ = ["HeartbeatExtender", "Holdings"]

log = logger("taskcore.backends.rabbitmq")

#: A copy, and the failpoint behind it.
PackedMessage: TypeAlias = tuple[RabbitMessage, str]

#: The failpoint behind the copy that a verdict leaves.
FAILPOINTS: Final[dict[type[Verdict], str]] = {
    Reschedule: "rabbitmq.retry.copied",
    Bury: "rabbitmq.bury.written",
    Release: "rabbitmq.release.copied",
}


class Holdings:
    """The deliveries that one source holds: extends, expires and settles them."""

    def __init__(self, connector: Connector, sender: Sender, *, lease: float) -> None:
        self.lease = lease
        self._connector = connector
        self._sender = sender

    # ── leases ──

    def extend(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Restart the leases; return the deliveries whose lease was lost before."""
        now = asyncio.get_running_loop().time()
        lost: list[Delivery] = []
        for delivery in batch:
            receipt: Receipt = delivery.receipt
            if receipt.is_held(now):
                receipt.expires = now + self.lease
            elif receipt.state != Receipt.SETTLING:
                lost.append(delivery)
        return lost

    def expire(self, consumers: Iterable[Consumer]) -> float:
        """Requeue what was not extended in time; return the seconds until the next lease ends."""
        now = asyncio.get_running_loop().time()
        next_end = float("inf")
        for consumer in consumers:
            for receipt in list(consumer.unsettled.values()):
                if receipt is None or receipt.state != Receipt.HELD:
                    continue
                if receipt.expires <= now:
                    consumer.expire(receipt)
                else:
                    next_end = min(next_end, receipt.expires)
        return next_end - now

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Note that these leases go on, because the connection does."""
        for delivery in batch:
            delivery.receipt.expires = at + self.lease

    # ── verdicts ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: some copies were not stored; their originals are held as before.
        """
        lost: list[Delivery] = []
        settling: list[tuple[Delivery, Verdict]] = []
        now = asyncio.get_running_loop().time()
        for delivery, verdict in batch:
            receipt: Receipt = delivery.receipt
            if receipt.is_held(now):
                receipt.state = Receipt.SETTLING
                settling.append((delivery, verdict))
                continue
            if receipt.state == Receipt.HELD:
                receipt.consumer.expire(receipt)
            lost.append(delivery)
        try:
            failure = await self._store_copies([(delivery, self._packed(delivery, one)) for delivery, one in settling])
            copied = [delivery for delivery, _ in settling if delivery.receipt.state == Receipt.SETTLING]
            await self._acknowledge([delivery.receipt for delivery in copied])
            lost += [delivery for delivery in copied if delivery.receipt.state == Receipt.SETTLING]
        finally:
            for delivery, _ in settling:
                if delivery.receipt.state == Receipt.SETTLING:
                    delivery.receipt.state = Receipt.HELD
        if failure is not None:
            raise failure
        return lost

    def _packed(self, delivery: Delivery, verdict: Verdict) -> PackedMessage | None:
        """Pack the copy that a verdict leaves; None where there is none, also because it would be too large.

        :raises VerdictRefused: no copy of the job can carry its new trail.
        """
        if isinstance(verdict, Ack):
            return None
        copy, limit, receipt = _copy(delivery, verdict), self._sender.max_message, delivery.receipt
        above = f"with its errors it has {len(copy.body):,} bytes, the broker takes {limit:,} (max_message_size)"
        if len(copy.body) > limit and isinstance(verdict, Bury):
            job = job_id_of(receipt.properties) or "?"
            log.error("queue %s: the dead letter of job %s is without its errors: %s", delivery.queue, job, above)
            copy = _copy(delivery, replace(verdict, trail=b""))
        if len(copy.body) <= limit:
            return copy, FAILPOINTS[type(verdict)]
        if isinstance(verdict, Reschedule):
            raise VerdictRefused(above)
        receipt.settle_by = Receipt.REQUEUE if isinstance(verdict, Release) else Receipt.DEAD_LETTER
        return None

    async def _store_copies(
        self, settling: Sequence[tuple[Delivery, PackedMessage | None]]
    ) -> BrokerUnavailable | None:
        """Publish what must exist before the originals may go; originals of failed copies are held as before."""
        copies = [(delivery.receipt, *packed) for delivery, packed in settling if packed is not None]
        if not copies:
            return None
        answers = await self._sender.send([copy for _, copy, _ in copies], copies=True)
        for (receipt, _, _), answer in zip(copies, answers, strict=True):
            if not isinstance(answer, Stored):
                receipt.state = Receipt.HELD
        for name in sorted({name for _, _, name in copies}):
            failpoint(name)
        held = [
            delivery for delivery, packed in settling if packed is not None and delivery.receipt.state == Receipt.HELD
        ]
        if held and not any(isinstance(answer, Uncertain) for answer in answers):
            why = next(answer.why for answer in answers if isinstance(answer, Refused))
            return NoRoom(f"a copy of a job or a dead letter could not be stored, it is tried again: {why}", held=held)
        return unavailable(answers)

    async def _acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """Settle the originals whose channel is open; return when the broker has handled it."""
        by_consumer: dict[Consumer, list[Receipt]] = {}
        for receipt in receipts:
            by_consumer.setdefault(receipt.consumer, []).append(receipt)
        with self._connector.errors("acknowledging"):
            written: list[Consumer] = []
            for consumer, its in by_consumer.items():
                await consumer.may_settle.wait()
                if not consumer.is_closed:
                    consumer.settle(its)
                    written.append(consumer)
            for consumer in written:
                await consumer.sync(consumer.prefetch)


class HeartbeatExtender:
    """Keeps connections alive, and so everything that is held over them, while their event loop stands still."""

    def __init__(self, connections: Iterable[ReconnectingConnection]) -> None:
        self._connections = tuple(connections)

    async def extend(self, tickets: Sequence[bytes]) -> Sequence[bytes]:  # noqa: ARG002 - they are all empty
        """Send a heartbeat over each connection; lose nothing."""
        for connection in self._connections:
            if (current := connection.current) is not None:
                current.beat()
        return ()


def _copy(delivery: Delivery, verdict: Reschedule | Release | Bury) -> RabbitMessage:
    """Return the message that a verdict leaves on the broker."""
    properties: Properties = delivery.receipt.properties
    of = properties.message_id
    job = Outgoing(delivery.queue, job_id_of(properties), delivery.envelope, delivery.trail)
    match verdict:
        case Reschedule(after=after, trail=trail):
            return message_of(replace(job, trail=trail, delay=after), copy_of=of)
        case Release():
            return message_of(job, copy_of=of, before=delivery.redeliveries)
        case Bury(reason=reason, trail=trail):
            return message_of(replace(job, trail=trail), copy_of=of, reason=reason.encode(errors="replace"))
        case _:
            assert_never(verdict)
