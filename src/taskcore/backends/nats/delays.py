"""DelayTimer: scheduled jobs on servers that have no schedules, before NATS 2.12.

A scheduled job lies in the queue's stream under a subject of its own. A consumer called "timer", shared by all workers
of the queue, hands each out once; the timer gives it back with the rest of its time, and the server hands it out again
when it is due. Then it is moved: a job in the ready part, confirmed → the end of the scheduled one. If a timer dies in
between, another one does both again; the ready part takes the job once.

A retry is a copy beside the job that its worker is about to end. Its move expects that job in the ready part, or
nothing if that is gone. The scheduled copy ends only if an answer says that the job is in the ready part.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

import msgspec

from taskcore.backends.nats.consumer import Pace, PullConsumer, Receipt, hand_out_in
from taskcore.backends.nats.layout import CLOCK, PARKED_LEASE, QueueStream, QueueStreams
from taskcore.backends.nats.messages import letter, unpack
from taskcore.backends.nats.publish import error_code_of, expecting, found_by
from taskcore.connections.nats import Message, NatsLink, Reply, header_of, number_of, size_of
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["DelayTimer", "delay_of", "next_step"]

log = logger("taskcore.backends.nats")

REQUEST_SIZE = 200  #: scheduled jobs asked for at a time
DUE_WITHIN = 0.002  #: seconds: due now
LONGEST_DELAY = 1e10  #: seconds that a job waits at most
LONGEST_PARKING = 30 * 86_400.0  #: seconds after which a parked job is looked at again
MOVE_TRIES = 3  #: moves of one scheduled job in a row; two are enough unless the server errs
HANDOVER_DELAY = 0.1  #: seconds after which another timer gets the jobs of one that stops
ERROR_PAUSE = 1.0  #: seconds after trouble


def delay_of(headers: bytes) -> float:
    """Return the seconds that a scheduled job was to wait, from when it was stored."""
    try:
        delay = float(header_of(headers, b"Tc-Delay"))
    except ValueError:
        return 0.0
    return min(delay, LONGEST_DELAY) if delay > 0 else 0.0  # nan too


class DelayTimer:
    """Moves the scheduled jobs of one queue when they are due, as one of perhaps many."""

    def __init__(self, link: NatsLink, streams: QueueStreams, stream: QueueStream, pace: Pace) -> None:
        self._link = link
        self._streams = streams
        self._stream = stream
        self._pace = pace
        self._news = asyncio.Event()
        self._consumer = PullConsumer(link, stream, name="timer", arrived=self._news.set, lease=PARKED_LEASE, pace=pace)
        self._stopping = asyncio.Event()
        self._tasks = TaskSet("NATS delay timer")

    async def start(self) -> None:
        """Start.

        :raises BrokerUnavailable: its consumer cannot be made.
        """
        await self._streams.ensure_timer(self._stream)
        self._tasks.start(self._run(), name=f"taskcore-nats-timer-{self._stream.queue}")

    async def stop(self) -> None:
        """Stop, after the move that is under way: a job that is moved and not ended waits until its lease is over."""
        self._stopping.set()
        self._news.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(ERROR_PAUSE):
                await self._tasks.wait_closed()
        await self._tasks.cancel()
        self._consumer.rest()
        await self._link.round_trip(timeout=ERROR_PAUSE)
        back = hand_out_in(HANDOVER_DELAY)  # at once, NATS 2.9 would hand them to us again
        frames = [arrival.frame(b"+ACK" if arrival.token == CLOCK else back) for arrival in self._consumer.waiting]
        self._link.send_now(b"".join(frames))
        self._consumer.close()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._turn()
            except BrokerUnavailable as error:
                log.debug("the timer of queue %s waits: %s", self._stream.queue, error)
                await _within(ERROR_PAUSE, self._stopping)
            except Exception:
                log.exception("unexpected error in the delay timer of queue %s; trying again", self._stream.queue)
                await _within(ERROR_PAUSE, self._stopping)

    async def _turn(self) -> None:
        """Wait for scheduled jobs, park those that are early, move those that are due."""
        self._news.clear()
        consumer = self._consumer
        if consumer.is_lost:
            consumer.rest()
            await _within(ERROR_PAUSE, self._stopping)
            await self._streams.ensure_timer(await self._streams.open(self._stream.queue))
        if consumer.asked < REQUEST_SIZE // 2:
            await self._link.ready()
            consumer.pull(REQUEST_SIZE - consumer.asked, wait=True)
        if not consumer.waiting:
            await _within(self._pace.sign, self._news)
            if not consumer.waiting:  # before 2.10 the question for the time is a message, which stats would count
                return
        if self._stopping.is_set():  # what is waiting is handed over; parked now, it might come back to us once more
            return
        now = await self._stream.clock.earliest()
        due: list[Receipt] = []
        parked: list[bytes] = []
        while consumer.waiting:
            arrival = consumer.waiting.popleft()
            if arrival.token == CLOCK:
                parked.append(arrival.frame(b"+ACK"))
                continue
            left = arrival.stored_at + delay_of(arrival.headers) - now
            if left <= DUE_WITHIN:
                due.append(arrival)
            else:
                parked.append(arrival.frame(hand_out_in(min(left, LONGEST_PARKING))))
                consumer.recent.pop()
        if parked:
            (await self._link.ready()).write(b"".join(parked))
        await self._move(due)

    async def _move(self, due: list[Receipt]) -> None:
        """Put jobs into the ready part, and end each scheduled one whose job is known to be there."""
        # Each expects the job that it is a copy of in the ready part, and nothing only if that is surely gone.
        trying = {receipt: number_of(receipt.headers, b"Tc-Copy") for receipt in due}
        moved: list[Receipt] = []
        for _ in range(MOVE_TRIES):
            trying = {receipt: expected for receipt, expected in trying.items() if self._is_ours(receipt)}
            if not trying:
                break
            messages = [self._ready(receipt, expected) for receipt, expected in trying.items()]
            for receipt, message in zip(tuple(trying), messages, strict=True):
                if size_of(message) > self._link.max_payload:
                    del trying[receipt]
                    moved += [receipt] if await self._bury(receipt) else []
            messages = [message for message in messages if size_of(message) <= self._link.max_payload]
            answers = await self._link.request_all(messages)
            again: dict[Receipt, int] = {}
            for (receipt, expected), answer in zip(trying.items(), answers, strict=True):
                match next_step(answer, expected=expected, copied=number_of(receipt.headers, b"Tc-Copy")):
                    case "end":
                        moved.append(receipt)
                    case "leave":
                        log.debug("a scheduled job of queue %s is not moved yet: %s", self._stream.queue, answer)
                    case int(found):
                        again[receipt] = found
            trying = again
        if moved:
            failpoint("nats.timer.moved")
            await self._link.request_all([Message(arrival.reply, b"+ACK") for arrival in moved])

    async def _bury(self, receipt: Receipt) -> bool:
        """Bury a scheduled message that is too large to be moved; tell whether its letter is there."""
        await self._streams.ensure_dead(self._stream)
        reason = b"too large to become ready: a message of another program"
        packed = msgspec.structs.replace(unpack(receipt.body, receipt.headers), reason=reason)
        body, headers = letter(packed, expecting(0), self._link.max_payload)
        subject = b"%b%b.%d" % (self._stream.dead.encode(), receipt.token, receipt.number)
        [answer] = await self._link.request_all([Message(subject, body, headers)])
        return answer is not None and (error_code_of(answer) in {0, -1} or bool(found_by(answer)))

    def _is_ours(self, receipt: Receipt) -> bool:
        """Tell whether it was not taken back, and no other timer has it by now."""
        return receipt.number not in self._consumer.cancelled and asyncio.get_running_loop().time() < receipt.until

    def _ready(self, arrival: Receipt, expected: int) -> Message:
        # A cluster remembers the id of a write that it refused: another expectation needs another id.
        headers = b"Nats-Msg-Id: %b:due:%d:%d\r\nTc-Trail: %d\r\n%b" % (
            arrival.token,
            arrival.number,
            expected,
            number_of(arrival.headers, b"Tc-Trail"),
            expecting(expected),
        )
        return Message(self._stream.ready_bytes + arrival.token, arrival.body, headers)


def next_step(answer: Reply | None, *, expected: int, copied: int) -> int | Literal["end", "leave"]:
    """Say what follows from an answer to a move: another try that expects this number, or the scheduled job's end.

    A refusal alone does not say that another timer has moved the job. The job that a retry is a copy of may have been
    there, and may be gone a moment later, because its worker ends it meanwhile. What is left is handed out again.

    :param expected: the number that the move expected in the ready part; 0: none.
    :param copied: the number of the job that a retry is a copy of; 0: it is no retry.
    """
    if answer is None:
        return "leave"
    if error_code_of(answer) in {0, -1}:
        return "end"
    found = found_by(answer)
    if found is None or found == expected:
        return "leave"
    return found if found in {0, copied} else "end"


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but no longer than so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
