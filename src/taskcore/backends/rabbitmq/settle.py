"""Leases and verdicts.

The lease. RabbitMQ has none: a job belongs to a channel while the channel is open. Seconds are counted here: a job that
is not extended for ``lease`` seconds is requeued by this process and can no longer be settled. A process that hangs as
a whole cannot do that. The broker notices its silence after one to two heartbeats; when the process wakes up, its own
clock and its dead channel both show that the job is lost.

The verdict. A copy of the job (retry, dead letter, release) is published and confirmed first, then the job itself is
acknowledged, then the answer of a later call on the same channel proves that the acknowledgement was handled: it has no
reply of its own. A foreign message that is too large to be copied is rejected instead: the broker itself moves it to
the dead letters, or requeues it.

    rabbitmq.retry.copied      the retry is stored, its original is still held
    rabbitmq.bury.written      the dead letter is stored, its original is still held
    rabbitmq.release.copied    the released copy is stored, its original is still held
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from msgspec.structs import replace

from taskcore.backend import Delivery, Outgoing, Stored
from taskcore.backends.rabbitmq.consumer import Consumer, Receipt
from taskcore.backends.rabbitmq.messages import RabbitMessage, job_id_of, message_of
from taskcore.backends.rabbitmq.publish import MAX_MESSAGE, Sender, unavailable
from taskcore.connections.amqp.connection import Connector
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger

__all__ = ["Holdings"]

log = logger("taskcore.backends.rabbitmq")

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
                    _expire(receipt)
                else:
                    next_end = min(next_end, receipt.expires)
        return next_end - now

    # ── verdicts ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: some copies were not stored; their originals are held as before.
        """
        lost: list[Delivery] = []
        settling: list[tuple[Receipt, Delivery, Verdict]] = []
        now = asyncio.get_running_loop().time()
        for delivery, verdict in batch:
            receipt: Receipt = delivery.receipt
            if receipt.is_held(now):
                receipt.state = Receipt.SETTLING
                settling.append((receipt, delivery, verdict))
                continue
            if receipt.state == Receipt.HELD:
                _expire(receipt)
            lost.append(delivery)
        try:
            failure = await self._store_copies(settling)
            copied = [receipt for receipt, _, _ in settling if receipt.state == Receipt.SETTLING]
            dead = {id(receipt) for receipt in copied if receipt.consumer.is_closed}
            await self._acknowledge([receipt for receipt in copied if id(receipt) not in dead])
        finally:
            for receipt, _, _ in settling:
                if receipt.state == Receipt.SETTLING:
                    receipt.state = Receipt.HELD
        if failure is not None:
            raise failure
        return lost + [delivery for receipt, delivery, _ in settling if id(receipt) in dead]

    async def _store_copies(self, settling: Sequence[tuple[Receipt, Delivery, Verdict]]) -> BrokerUnavailable | None:
        """Publish what must exist before the originals may go; originals of failed copies are held as before."""
        copies: list[tuple[Receipt, RabbitMessage]] = []
        kinds: set[type[Verdict]] = set()
        for receipt, delivery, verdict in settling:
            copy = _copy(receipt, delivery, verdict)
            if copy is not None and len(copy.body) > MAX_MESSAGE:
                _settle_without_copy(receipt, verdict, len(copy.body))
            elif copy is not None:
                copies.append((receipt, copy))
                kinds.add(type(verdict))
        if not copies:
            return None
        answers = await self._sender.send([copy for _, copy in copies], copies=True)
        for (receipt, _), answer in zip(copies, answers, strict=True):
            if not isinstance(answer, Stored):
                receipt.state = Receipt.HELD
        for kind, name in FAILPOINTS.items():
            if kind in kinds:
                failpoint(name)
        return unavailable(answers)

    async def _acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """Settle the originals; return when the broker has handled it."""
        by_consumer: dict[Consumer, list[Receipt]] = {}
        for receipt in receipts:
            by_consumer.setdefault(receipt.consumer, []).append(receipt)
        with self._connector.errors("acknowledging"):
            for consumer, its in by_consumer.items():
                await consumer.may_settle.wait()
                packed = consumer.pack_settlement(its)
                for receipt in its:
                    receipt.state = Receipt.OVER
                consumer.write(packed)
            for consumer in by_consumer:
                await consumer.sync(self._connector.address.timeout, consumer.prefetch)


def _expire(receipt: Receipt) -> None:
    receipt.state = Receipt.OVER
    try:
        receipt.consumer.requeue(receipt)
    except ConnectionError as error:
        log.debug("a lease ended on a closed channel: %s", error)  # so the broker has requeued the job already


def _copy(receipt: Receipt, delivery: Delivery, verdict: Verdict) -> RabbitMessage | None:
    """Return the message that a verdict leaves on the broker."""
    if isinstance(verdict, Ack):
        return None
    of = receipt.properties.message_id
    job = Outgoing(delivery.queue, job_id_of(receipt.properties), delivery.envelope, delivery.trail)
    match verdict:
        case Reschedule(after=after, trail=trail):
            return message_of(replace(job, trail=trail, delay=after), copy_of=of)
        case Release():
            return message_of(job, copy_of=of, before=delivery.redeliveries)
        case Bury(reason=reason, trail=trail):
            return message_of(replace(job, trail=trail), copy_of=of, reason=reason.encode(errors="replace"))
        case _:
            assert_never(verdict)


def _settle_without_copy(receipt: Receipt, verdict: Verdict, size: int) -> None:
    """Choose how a job leaves that is too large to be copied: as it is, without its error history."""
    if isinstance(verdict, Release):
        receipt.settle_by = Receipt.REQUEUE
        return
    log.error(
        "queue %s: job %s is too large to copy with its error history (%s bytes); the broker moves it to the dead "
        "letters without it",
        receipt.consumer.queue,
        job_id_of(receipt.properties) or "?",
        f"{size:,}",
    )
    receipt.settle_by = Receipt.DEAD_LETTER
