"""Settler: how each verdict is carried out, and in which order.

    Ack                 the end of the job, confirmed; if it claims the job, its deletion before that
    Release · Reschedule(0)  a copy takes the job's place: one step on the server, refused if the job is another by now
    Reschedule(after)        a scheduled copy, confirmed → the end of the job
    Bury                the dead letter, confirmed → the end of the job

Ends are written in one piece; the last one of each queue asks for an answer, and because a server takes them in order,
its answer is the answer to all. A delivery whose lease is over by our own clock is lost, whatever the server thinks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self, TypeAlias

from taskcore.backend import Delivery, VerdictRefused
from taskcore.backends.limits import NoRoom
from taskcore.backends.nats.consumer import Receipt, hand_out_in
from taskcore.backends.nats.layout import FAMILY_LEVEL, QueueStreams
from taskcore.backends.nats.messages import Packed, letter
from taskcore.backends.nats.publish import HEADER_ROOM, IS_ANOTHER, error_code_of, expecting, found_by, waiting
from taskcore.connections.jetstream_limits import LimitReached, way_out
from taskcore.connections.nats import Message, NatsAddress, NatsLink, Reply, jetstream, size_of
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.failpoints import failpoint

__all__ = ["NatsExtender", "NatsSettler"]


LEADER_TRIES = 5  #: times that a write is repeated while its stream has no leader
LEADER_PAUSE = 0.2  #: seconds between them
LEFTOVER_TRIES = 2  #: times that a scheduled copy is written anew: over a leftover, then where that has gone meanwhile

#: A verdict that is carried out by writing something.
Writing: TypeAlias = tuple[Delivery, Release | Reschedule | Bury]


class NatsSettler:
    """Carries verdicts out, and keeps leases: the half of a source behind the jobs."""

    def __init__(self, link: NatsLink, streams: QueueStreams, lease: float) -> None:
        self._link = link
        self._streams = streams
        self._lease = lease

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out.
        """
        now = asyncio.get_running_loop().time()
        ends: list[Receipt] = []
        writing: list[Writing] = []
        lost: list[Delivery] = []
        for delivery, verdict in batch:
            receipt: Receipt = delivery.receipt
            if receipt.over or now >= receipt.until:
                lost.append(delivery)
            elif isinstance(verdict, Ack):
                if not verdict.claims or await self._claim(receipt):
                    ends.append(receipt)
                else:
                    lost.append(delivery)
            else:
                writing.append((delivery, verdict))
        if writing:
            ends += await self._write(writing, lost)
        if ends:
            await self.end(ends)
        return lost

    async def _claim(self, receipt: Receipt) -> bool:
        """Delete the job, which only one worker can; False if another one has.

        An acknowledgement does not tell: the server accepts that of a worker which was frozen, read the job from its
        socket long after its lease had ended, and believes to hold it.
        """
        return bool(await jetstream.delete_messages(self._link, receipt.stream.name, [receipt.number]))

    # ── copies and dead letters ──

    async def _write(self, writing: Sequence[Writing], lost: list[Delivery]) -> list[Receipt]:
        """Write copies and dead letters; return the receipts whose job is to end now."""
        held: dict[Delivery, str] = {}
        packed = await self._hand_back(await self._messages(writing, held))
        writing, answers = list(packed), await self._request(list(packed.values()))
        await self._over_leftovers(writing, answers)
        ends: list[Receipt] = []
        trouble: str | None = None
        for (delivery, verdict), answer in zip(writing, answers, strict=True):
            receipt: Receipt = delivery.receipt
            in_place = not isinstance(verdict, Bury) and not _is_later(verdict)
            code = error_code_of(answer) if answer is not None else None
            if code in {0, -1} or (isinstance(verdict, Bury) and answer is not None and found_by(answer)):
                if in_place:
                    receipt.over = True
                else:  # also where the letter is there already
                    ends.append(receipt)
            elif code == IS_ANOTHER and not isinstance(verdict, Bury):
                receipt.over = True
                lost.append(delivery)
            elif answer is not None and way_out(code or 0):
                held[delivery] = f"{_trouble_with(answer)}; {way_out(code or 0)}"
            else:
                trouble = _trouble_with(answer)
        if any(isinstance(verdict, Bury) for _, verdict in writing):
            failpoint("nats.bury.written")
        if any(_is_later(verdict) for _, verdict in writing):
            failpoint("nats.retry.copied")
        if held or trouble is not None:
            await self.end(ends)
            raise self._link.unavailable(trouble) if trouble else NoRoom(next(iter(held.values())), held=list(held))
        return ends

    async def _messages(self, writing: Sequence[Writing], held: dict[Delivery, str]) -> dict[Writing, Message]:
        """Return what is written for verdicts; note the deliveries whose dead letters have no stream, and why."""
        messages: dict[Writing, Message] = {}
        for one in writing:
            try:
                messages[one] = await self._message(*one)
            except LimitReached as error:
                held[one[0]] = f"{error.what}; {error.fix}"
        return messages

    async def _hand_back(self, packed: dict[Writing, Message]) -> dict[Writing, Message]:
        """Let the server itself hand out again what is too large for a copy, and so came from another program."""
        for (delivery, verdict), message in packed.items():
            if size_of(message) > self._link.max_payload:
                after = verdict.after if isinstance(verdict, Reschedule) else 0.0
                await self._tell([delivery.receipt], "that a job is given back", hand_out_in(after))
                delivery.receipt.over = True
        return {one: message for one, message in packed.items() if not one[0].receipt.over}

    async def _over_leftovers(self, writing: Sequence[Writing], answers: list[Reply | None]) -> None:
        """Let scheduled copies take the place of what their job was moved from, if its timer has not ended that yet.

        A write before NATS 2.11 can expect something of its own subject only. It is refused because of a scheduled job
        that is older than the one in hand, although nothing speaks against it.
        """
        if self._link.level >= FAMILY_LEVEL:
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

    async def _request(self, messages: list[Message]) -> list[Reply | None]:
        """Send; repeat a little later what no server took, because a stream may be electing its leader."""
        return await self._link.request_again(messages, lambda: asyncio.sleep(LEADER_PAUSE), tries=LEADER_TRIES)

    async def _message(
        self, delivery: Delivery, verdict: Release | Reschedule | Bury, *, leftover: int | None = None
    ) -> Message:
        """Return what is written for a verdict.

        A copy takes the place of the job, if that is still the one that we hold, now or when it is due. There is one
        letter for each copy of a job at most: a worker that buries it again finds it.

        :param leftover: the number of the scheduled job whose place the copy takes.
        """
        receipt: Receipt = delivery.receipt
        stream, token, number = receipt.stream, receipt.token, receipt.number
        trail = delivery.trail if isinstance(verdict, Release) else self._fitting(delivery, verdict)
        body, headers = delivery.envelope + trail, b"Tc-Trail: %d\r\n" % len(trail)
        if isinstance(verdict, Bury):
            await self._streams.ensure_dead(stream)
            packed = Packed(delivery.envelope, trail, reason=verdict.reason.encode("utf-8", "replace"))
            body, headers = letter(packed, expecting(0), self._link.max_payload)
            return Message(b"%b%b.%d" % (stream.dead.encode(), token, number), body, headers)
        standing = 0 if number in stream.deleted else number  # a caller deleted it too late
        identity = b"%b:%d:%d" % (token, number, receipt.handed)
        if isinstance(verdict, Release) or not _is_later(verdict):
            if isinstance(verdict, Release) and receipt.redeliveries:
                headers += b"Tc-Handed: %d\r\n" % receipt.redeliveries
            headers += b"Nats-Msg-Id: %b\r\n%b" % (identity, expecting(standing))
            return Message(receipt.subject, body, headers)
        if self._link.level >= FAMILY_LEVEL:
            headers += expecting(standing, stream.either_bytes + token)
        else:
            headers += expecting(leftover or 0)
        if leftover is not None:  # a cluster remembers the id of a write that it refused
            identity += b":%d" % leftover
        headers += b"Nats-Msg-Id: %b\r\nTc-Copy: %d\r\n" % (identity, number)
        return Message(stream.scheduled_bytes + token, body, headers + await waiting(stream, token, verdict.after))

    def _fitting(self, delivery: Delivery, verdict: Reschedule | Bury) -> bytes:
        """Return the new trail; a dead letter leaves out what does not fit.

        :raises VerdictRefused: no copy of the job can carry it: its attempts could not be counted.
        """
        size, room = len(delivery.envelope) + len(verdict.trail), self._link.max_payload - HEADER_ROOM
        if size > room and isinstance(verdict, Reschedule):
            raise VerdictRefused(f"with its errors it has {size:,} bytes, the server takes {room:,} (max_payload)")
        return verdict.trail

    # ── ends and leases ──

    async def end(self, receipts: Sequence[Receipt]) -> None:
        """End these jobs, confirmed.

        :raises BrokerUnavailable: some may not have ended.
        """
        await self._tell([receipt for receipt in receipts if not receipt.void], "the end of a job", b"+ACK")
        for receipt in receipts:
            if receipt.void:
                await self._end_without_consumer(receipt)
        for receipt in receipts:
            receipt.over = True

    async def _end_without_consumer(self, receipt: Receipt) -> None:
        """Delete a job whose consumer was deleted: the new one knows nothing of our lease."""
        found = await jetstream.find_message(self._link, receipt.stream.name, seq=receipt.number)
        if found is not None and found.subject.encode() == receipt.subject:
            await jetstream.delete_messages(self._link, receipt.stream.name, [receipt.number])

    async def extend(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Start the leases anew; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: leases are as they were.
        """
        now = asyncio.get_running_loop().time()
        lost: list[Delivery] = []
        ours: list[Receipt] = []
        for delivery in batch:
            receipt: Receipt = delivery.receipt
            if receipt.over or receipt.void or now >= receipt.until:
                lost.append(delivery)
            else:
                ours.append(receipt)
        await self._tell(ours, "the extension of a lease")
        for receipt in ours:
            receipt.until = now + self._lease
        return lost

    # ── leases that another thread extends ──

    def ticket(self, delivery: Delivery) -> bytes | None:
        """Return what an extender needs to know of this lease; None if it has ended."""
        receipt: Receipt = delivery.receipt
        word = receipt.consumer.greeting or b"+WPI"
        return None if receipt.over or receipt.void else b"%b\n%b\n%b" % (delivery.queue.encode(), receipt.reply, word)

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Note that these leases were started anew."""
        for delivery in batch:
            delivery.receipt.until = at + self._lease

    async def _tell(self, receipts: Sequence[Receipt], what: str, word: bytes = b"") -> None:
        """Tell the server about some deliveries.

        :param word: the message about each; empty: that its lease starts anew.
        """
        told = [(one.stream.name, one.reply, word or one.consumer.greeting or b"+WPI") for one in receipts]
        await jetstream.tell(self._link, told, what)


class NatsExtender:
    """Extends leases by their tickets, over a connection of its own. Use it with ``async with``."""

    def __init__(self, address: NatsAddress) -> None:
        self._link = NatsLink(address, name="taskcore-keeper")

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._link.__aexit__(*exc)

    async def extend(self, tickets: Sequence[bytes]) -> Sequence[bytes]:
        """Start the leases anew; the server does not say which of them were lost.

        :raises BrokerUnavailable: leases are as they were.
        """
        told = [ticket.split(b"\n") for ticket in tickets]
        await jetstream.tell(self._link, [(queue, reply, word) for queue, reply, word in told], "keeping leases")
        return ()


def _trouble_with(answer: Reply | None) -> str:
    if answer is None:
        return "the server did not say whether it stored a copy or a dead letter"
    if not answer.body:
        return "no server takes a copy or a dead letter: its stream has no leader"
    return f"the server refuses a copy or a dead letter: {answer.body[:200]!r}"


def _is_later(verdict: Verdict) -> bool:
    return isinstance(verdict, Reschedule) and verdict.after > 0
