"""Settler: how each verdict is carried out, and in which order.

    Ack                 the end of the job, confirmed
    Release · Reschedule(0)  a copy takes the job's place: one step on the server, refused if the job is another by now
    Reschedule(after)        a scheduled copy, confirmed → the end of the job
    Bury                the dead letter, confirmed → the end of the job

Ends are written in one piece; the last one of each queue asks for an answer, and because a server takes them in order,
its answer is the answer to all. A delivery whose lease is over by our own clock is lost, whatever the server thinks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import assert_never

from taskcore.backend import Delivery
from taskcore.backends.nats.consumer import Receipt
from taskcore.backends.nats.layout import FAMILY, QueueStreams
from taskcore.backends.nats.publish import HEADER_ROOM, IS_ANOTHER, error_code_of, found_by, scheduling
from taskcore.connections.nats import Answer, Message, NatsLink, encode_message
from taskcore.connections.nats.jetstream import stored_in
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger

__all__ = ["NatsSettler"]

log = logger("taskcore.backends.nats")

LEADER_TRIES = 5  #: times that a write is repeated while its stream has no leader
LEADER_PAUSE = 0.2  #: seconds between them
LEFTOVER_TRIES = 2  #: times that a scheduled copy is written anew: over a leftover, then where that has gone meanwhile


class NatsSettler:
    """Carries verdicts out."""

    def __init__(self, link: NatsLink, streams: QueueStreams) -> None:
        self._link = link
        self._streams = streams

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out.
        """
        now = asyncio.get_running_loop().time()
        ends: list[Receipt] = []
        writing: list[tuple[Delivery, Verdict]] = []
        lost: list[Delivery] = []
        for delivery, verdict in batch:
            receipt: Receipt = delivery.receipt
            if receipt.over or now >= receipt.until:
                lost.append(delivery)
            elif isinstance(verdict, Ack):
                ends.append(receipt)
            else:
                writing.append((delivery, verdict))
        if writing:
            ends += await self._write(writing, lost)
        if ends:
            await self.end(ends)
        return lost

    async def _write(  # noqa: C901 - a table of answers
        self, writing: Sequence[tuple[Delivery, Verdict]], lost: list[Delivery]
    ) -> list[Receipt]:
        """Write copies and dead letters; return the receipts whose job is to end now."""
        messages = [await self._message(delivery, verdict) for delivery, verdict in writing]
        answers = await self._request(messages)
        await self._over_leftovers(writing, answers)
        ends: list[Receipt] = []
        trouble: str | None = None
        for (delivery, verdict), answer in zip(writing, answers, strict=True):
            receipt: Receipt = delivery.receipt
            if answer is None:
                trouble = "the server did not say whether it stored a copy or a dead letter"
                continue
            code = error_code_of(answer)
            if code in {0, -1} or _has_letter(verdict, answer):
                if isinstance(verdict, Bury) or _is_later(verdict):
                    ends.append(receipt)
                else:
                    receipt.over = True
            elif code == IS_ANOTHER and not isinstance(verdict, Bury):
                receipt.over = True
                lost.append(delivery)
            elif not answer.body:
                trouble = "no server takes a copy or a dead letter: its stream has no leader"
            else:
                trouble = f"the server refuses a copy or a dead letter: {answer.body[:200]!r}"
        if any(isinstance(verdict, Bury) for _, verdict in writing):
            failpoint("nats.bury.written")
        if any(_is_later(verdict) for _, verdict in writing):
            failpoint("nats.retry.copied")
        if trouble is not None:
            if ends:
                await self.end(ends)
            raise self._link.unavailable(trouble)
        return ends

    async def _over_leftovers(self, writing: Sequence[tuple[Delivery, Verdict]], answers: list[Answer | None]) -> None:
        """Let scheduled copies take the place of what their job was moved from, if its timer has not ended that yet.

        A write before NATS 2.11 can expect something of its own subject only. It is refused because of a scheduled job
        that is older than the one in hand, although nothing speaks against it.
        """
        if self._link.level >= FAMILY:
            return
        expected = dict.fromkeys((index for index, (_, verdict) in enumerate(writing) if _is_later(verdict)), 0)
        for _ in range(LEFTOVER_TRIES):
            again: dict[int, int] = {}
            for index, before in expected.items():
                answer = answers[index]
                found = None if answer is None else found_by(answer)
                if found is not None and found != before and found < writing[index][0].receipt.number:
                    again[index] = found
            if not again:
                return
            messages = [await self._message(*writing[index], leftover=found) for index, found in again.items()]
            for index, answer in zip(again, await self._request(messages), strict=True):
                answers[index] = answer
            expected = again

    async def _request(self, messages: list[Message]) -> list[Answer | None]:
        """Send; repeat a little later what no server took, because a stream may be electing its leader."""
        answers = await self._link.request_all(messages)
        for _ in range(LEADER_TRIES):
            nowhere = [index for index, answer in enumerate(answers) if answer is not None and not answer.body]
            if not nowhere:
                break
            await asyncio.sleep(LEADER_PAUSE)
            for index, answer in zip(
                nowhere, await self._link.request_all([messages[i] for i in nowhere]), strict=True
            ):
                answers[index] = answer
        return answers

    async def _message(self, delivery: Delivery, verdict: Verdict, *, leftover: int | None = None) -> Message:
        receipt: Receipt = delivery.receipt
        match verdict:
            case Release():
                return self._copy(delivery, delivery.trail, handed=receipt.redeliveries)
            case Reschedule(after=after, trail=trail) if after > 0:
                return await self._later(delivery, self._fitting(delivery, trail), after, leftover)
            case Reschedule(trail=trail):
                return self._copy(delivery, self._fitting(delivery, trail), handed=0)
            case Bury(reason=reason, trail=trail):
                await self._streams.ensure_dead(delivery.queue)
                return self._letter(delivery, reason.encode("utf-8", "replace"), self._fitting(delivery, trail))
            case Ack():
                raise AssertionError("an Ack writes nothing")
            case _:
                assert_never(verdict)

    def _copy(self, delivery: Delivery, trail: bytes, *, handed: int) -> Message:
        """Put a copy in the place of the job, if that is still the one that we hold."""
        receipt: Receipt = delivery.receipt
        headers = (
            f"Nats-Msg-Id: {receipt.token}:{receipt.number}:{receipt.handed}\r\n"
            f"Nats-Expected-Last-Subject-Sequence: {_standing(receipt)}\r\n"
            f"Tc-Trail: {len(trail)}\r\n"
        )
        if handed:
            headers += f"Tc-Handed: {handed}\r\n"
        return Message(receipt.subject, delivery.envelope + trail, _bytes(headers))

    async def _later(self, delivery: Delivery, trail: bytes, after: float, leftover: int | None) -> Message:
        """Put a copy beside the job; it takes the job's place when it is due."""
        receipt: Receipt = delivery.receipt
        stream, token = receipt.stream, receipt.token
        word = "" if leftover is None else f":{leftover}"  # a cluster remembers the id of a write that it refused
        headers = f"Nats-Msg-Id: {token}:{receipt.number}:{receipt.handed}{word}\r\nTc-Copy: {receipt.number}\r\n"
        if self._link.level >= FAMILY:
            headers += (
                f"Nats-Expected-Last-Subject-Sequence: {_standing(receipt)}\r\n"
                f"Nats-Expected-Last-Subject-Sequence-Subject: {stream.names.either}{token}\r\n"
            )
        else:
            headers += f"Nats-Expected-Last-Subject-Sequence: {leftover or 0}\r\n"
        headers += f"Tc-Trail: {len(trail)}\r\n"
        offset = await self._streams.clock(stream) if stream.native else 0.0
        headers += scheduling(stream, token, after, offset)
        return Message(_bytes(f"{stream.names.scheduled}{token}"), delivery.envelope + trail, _bytes(headers))

    def _letter(self, delivery: Delivery, reason: bytes, trail: bytes) -> Message:
        """Write one letter for each copy of a job at most: a worker that buries it again finds it."""
        receipt: Receipt = delivery.receipt
        headers = f"Nats-Expected-Last-Subject-Sequence: 0\r\nTc-Trail: {len(trail)}\r\nTc-Reason: {len(reason)}\r\n"
        subject = f"{receipt.stream.names.dead}{receipt.token}.{receipt.number}"
        return Message(_bytes(subject), delivery.envelope + trail + reason, _bytes(headers))

    def _fitting(self, delivery: Delivery, trail: bytes) -> bytes:
        """Return the new trail, or the one before if the server would not take it."""
        room = self._link.max_payload - HEADER_ROOM - len(delivery.envelope)
        if len(trail) <= room:
            return trail
        log.error(
            "dropped the latest error of a job in queue %s: its trail has %d bytes, the server takes %d beside the "
            "envelope. Raise max_payload in the server's configuration.",
            delivery.queue,
            len(trail),
            room,
        )
        return delivery.trail

    # ── ends ──

    async def end(self, receipts: Sequence[Receipt]) -> None:
        """End these jobs, confirmed.

        :raises BrokerUnavailable: some may not have ended.
        """
        last: dict[int, Receipt] = {}
        void: list[Receipt] = []
        frames: list[bytes] = []
        for receipt in receipts:
            if receipt.void:
                void.append(receipt)
                continue
            before = last.get(id(receipt.stream))
            if before is not None:
                frames.append(b"PUB %b  4\r\n+ACK\r\n" % before.reply)
            last[id(receipt.stream)] = receipt
        if last:
            messages = [Message(receipt.reply, b"+ACK") for receipt in last.values()]
            answers = await self._link.request_all(messages, ahead=b"".join(frames))
            if None in answers:
                raise self._link.unavailable("the server did not confirm the end of a job")
            unheard = [answer.status == b"503" for answer in answers if answer is not None]
            if any(unheard):
                raise self._link.unavailable("no server took the end of a job: its queue has no leader, or was deleted")
        for receipt in void:
            await self._end_without_consumer(receipt)
        for receipt in receipts:
            receipt.over = True

    async def _end_without_consumer(self, receipt: Receipt) -> None:
        """Delete a job whose consumer was deleted: the new one knows nothing of our lease."""
        stream = receipt.stream.names.stream
        found = await self._link.api(f"STREAM.MSG.GET.{stream}", {"seq": receipt.number})
        stored = stored_in(found)
        if stored is None or stored["subject"].encode() != receipt.subject:
            return
        await self._link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": receipt.number, "no_erase": True})

    # ── leases ──

    async def extend(self, batch: Sequence[Delivery], *, lease: float, setting: bytes | None) -> list[Delivery]:
        """Start the leases anew; return the deliveries whose lease was lost.

        :param setting: what to tell the server for each; None: start its own lease again.
        :raises BrokerUnavailable: leases are as they were.
        """
        now = asyncio.get_running_loop().time()
        ours: list[Receipt] = []
        lost: list[Delivery] = []
        for delivery in batch:
            receipt: Receipt = delivery.receipt
            if receipt.over or receipt.void or now >= receipt.until:
                lost.append(delivery)
            else:
                ours.append(receipt)
        if ours:
            last = {id(receipt.stream): receipt for receipt in ours}
            body = setting or b"+WPI"
            ahead = b"".join(
                encode_message(Message(receipt.reply, body))
                for receipt in ours
                if last[id(receipt.stream)] is not receipt
            )
            messages = [Message(receipt.reply, body) for receipt in last.values()]
            answers = await self._link.request_all(messages, ahead=ahead)
            if any(answer is None or answer.status == b"503" for answer in answers):
                raise self._link.unavailable("the server did not confirm the extension of a lease")
            for receipt in ours:
                receipt.until = now + lease
        return lost


def _standing(receipt: Receipt) -> int:
    """Return the number of the job that a copy replaces; 0 if a caller deleted it too late."""
    return 0 if receipt.number in receipt.stream.deleted else receipt.number


def _has_letter(verdict: Verdict, answer: Answer) -> bool:
    """Whether a letter is refused because it is there already."""
    return isinstance(verdict, Bury) and bool(found_by(answer))


def _is_later(verdict: Verdict) -> bool:
    return isinstance(verdict, Reschedule) and verdict.after > 0


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
