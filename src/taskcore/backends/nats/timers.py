"""Timers: scheduled jobs on servers that have no schedules, before NATS 2.12.

A scheduled job lies in the queue's stream under a subject of its own. A consumer called "timer", shared by all workers
of the queue, hands each out once; we give it back with the rest of its time, and so the server wakes us when it is due.
Then it is moved: a job in the ready part, confirmed → the end of the scheduled one. Whoever dies in between is
followed by somebody who does both again; the ready part takes it once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from taskcore.backends.nats.cancelling import Listener
from taskcore.backends.nats.consumer import SIGN_OF_LIFE, Tap
from taskcore.backends.nats.layout import CLOCK, NANO, PARKED_LEASE, Shelf, Shelves
from taskcore.backends.nats.messages import number_at
from taskcore.backends.nats.publish import IS_ANOTHER, verdict_on
from taskcore.backends.nats.receipts import Hold
from taskcore.connections.nats import Answer, NatsLink, Parcel, headers_of
from taskcore.connections.nats.clock import wall_clock
from taskcore.connections.nats.wire import frame
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["Timer", "delay_of"]

log = logger("taskcore.nats")

AT_ONCE = 200  #: scheduled jobs asked for at a time
NEAR = 0.002  #: seconds: due now
LONGEST = 30 * 86_400.0  #: seconds for which one is parked before somebody looks again
GIVEN_BACK = 0.1  #: seconds after which another timer gets what this one has no time for
PAUSE = 1.0  #: seconds after trouble


def delay_of(headers: bytes) -> float:
    """The seconds that a scheduled job was to wait, from when it was stored."""
    text = headers_of(headers).get(b"Tc-Delay", b"")
    try:
        return min(max(float(text), 0.0), 1e10)
    except ValueError:
        return 0.0


class Timer:
    """Moves the scheduled jobs of one queue when they are due, as one of perhaps many."""

    def __init__(self, link: NatsLink, shelves: Shelves, shelf: Shelf) -> None:
        self._link = link
        self._shelves = shelves
        self._shelf = shelf
        self._news = asyncio.Event()
        self._tap = Tap(link, shelf, consumer="timer", arrived=self._news.set, lease=PARKED_LEASE)
        self._listener = Listener(link, self._tap)
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, link: NatsLink, shelves: Shelves, shelf: Shelf) -> Self:
        """Begin.

        :raises BrokerUnavailable: its consumer cannot be made.
        """
        await shelves.timer(shelf)
        timer = cls(link, shelves, shelf)
        timer._task = asyncio.create_task(timer._run(), name=f"taskcore-nats-timer-{shelf.names.queue}")
        return timer

    async def stop(self) -> None:
        """End; others go on, or whoever comes next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._tap.rest()
        await self._link.round_trip(timeout=PAUSE)
        back = b'-NAK {"delay": %d}' % (GIVEN_BACK * NANO)  # at once, NATS 2.9 would hand them to us again
        self._link.send_now(b"".join(frame(Parcel(arrival.reply, back)) for arrival in self._tap.waiting))
        self._listener.close()
        self._tap.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
            except BrokerUnavailable as error:
                log.debug("the timer of queue %s waits: %s", self._shelf.names.queue, error)
                await asyncio.sleep(PAUSE)
            except Exception:
                log.exception("the timer of queue %s stumbled; it goes on", self._shelf.names.queue)
                await asyncio.sleep(PAUSE)

    async def _turn(self) -> None:
        """Wait for scheduled jobs, park those that are early, move those that are due."""
        self._news.clear()
        tap = self._tap
        if tap.absent or tap.silent:
            tap.rest()
            tap.absent = False
            await asyncio.sleep(PAUSE)
            await self._shelves.timer(await self._shelves.shelf(self._shelf.names.queue))
        if tap.asked < AT_ONCE // 2:
            await self._link.ready()
            tap.pull(AT_ONCE - tap.asked, wait=True)
        if not tap.waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OF_LIFE):
                    await self._news.wait()
        now = wall_clock() + await self._shelves.clock(self._shelf)
        due: list[Hold] = []
        parked: list[bytes] = []
        while tap.waiting:
            arrival = tap.waiting.popleft()
            if arrival.subject.endswith(CLOCK.encode()):
                parked.append(frame(Parcel(arrival.reply, b"+ACK")))
                continue
            left = _stored_at(arrival) + delay_of(arrival.headers) - now
            if left <= NEAR:
                due.append(arrival)
            else:
                body = b'-NAK {"delay": %d}' % (min(left, LONGEST) * NANO)
                parked.append(frame(Parcel(arrival.reply, body)))
                tap.recent.pop()
        if parked:
            await self._link.send(b"".join(parked))
        if due:
            await self._move(due)

    async def _move(self, due: list[Hold]) -> None:
        due = [arrival for arrival in due if arrival.number not in self._tap.withdrawn]
        answers = await self._link.exchange([self._ready(arrival, expected=0) for arrival in due])
        await self._replace(due, answers)
        moved = [
            arrival
            for arrival, answer in zip(due, answers, strict=True)
            if answer is not None and verdict_on(answer) in {0, -1, IS_ANOTHER}
        ]
        if moved:
            await self._link.exchange([Parcel(arrival.reply, b"+ACK") for arrival in moved])

    async def _replace(self, due: list[Hold], answers: list[Answer | None]) -> None:
        """A retry whose job was not ended, because its worker died in between, takes that job's place."""
        copies = [
            (index, copied)
            for index, answer in enumerate(answers)
            if answer is not None
            and verdict_on(answer) == IS_ANOTHER
            and (copied := number_at(due[index].headers, b"Tc-Copy"))
        ]
        again = await self._link.exchange([self._ready(due[index], expected=copied) for index, copied in copies])
        for (index, _), answer in zip(copies, again, strict=True):
            answers[index] = answer

    def _ready(self, arrival: Hold, *, expected: int) -> Parcel:
        token = arrival.subject.rpartition(b".")[2]
        headers = b"Nats-Msg-Id: %b:due:%d\r\nNats-Expected-Last-Subject-Sequence: %d\r\nTc-Trail: %d\r\n" % (
            token,
            arrival.number,
            expected,
            number_at(arrival.headers, b"Tc-Trail"),
        )
        return Parcel(self._shelf.names.ready.encode() + token, arrival.body, headers)


def _stored_at(arrival: Hold) -> float:
    """When it was stored, by the server's clock."""
    tokens = arrival.reply.split(b".")
    return int(tokens[7 if len(tokens) == 9 else 9]) / NANO  # noqa: PLR2004 - see Hold
