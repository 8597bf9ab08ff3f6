"""Receiving, settling, leases.

The lease. RabbitMQ knows none: a job is ours as long as the channel is open that it came through. Seconds are counted
here: what is not extended for ``lease`` seconds is given back by this source itself, and can no longer be settled. A
process that hangs as a whole cannot do that; the broker notices its silence after one to two heartbeats, and when the
process wakes up, its own clock and its dead channel both tell it that the job is lost.

Settling. A copy of the job (retry, dead letter, giving back) is written and confirmed first, then the job itself is
acknowledged, and the answer comes when the broker has heard that. Acknowledgements have no reply of their own; what
follows them on the channel and is answered proves that they were heard. What is too large to be copied, because others
have sent it, is rejected instead: the broker itself moves it to the dead letters, or back.

    rabbitmq.retry.copied      the retry is stored, the job it is a copy of is still held
    rabbitmq.bury.written      likewise the dead letter
    rabbitmq.release.copied    likewise what is given back
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, assert_never

import msgspec

from taskcore.backend import Delivery, Outgoing, Stored
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.consumer import MOST, Held, Stream
from taskcore.backends.rabbitmq.messages import Parcel, parcel_of, stamp
from taskcore.backends.rabbitmq.office import Line
from taskcore.backends.rabbitmq.publish import Sender
from taskcore.backends.rabbitmq.publisher import LARGEST, unavailable
from taskcore.connections.amqp.connection import Link, whole
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger

__all__ = ["RabbitSource"]

log = logger("taskcore.rabbitmq")

#: The crash point behind the copy that a verdict leaves.
POINTS: Final[dict[type[Verdict], str]] = {
    Reschedule: "rabbitmq.retry.copied",
    Bury: "rabbitmq.bury.written",
    Release: "rabbitmq.release.copied",
}

IDLE: Final = 0.1  #: seconds: what has come and nobody asks for goes back after so long
FIRST: Final = 0.1  #: seconds that an earlier queue has to deliver what it is known to have
AGAIN: Final = (0.1, 0.2, 0.4)  #: seconds before a consumer that could not be started is tried again
SILENCE: Final = 5.0  #: seconds without any job, after which we look whether there is one …
LOOKS: Final = 3  #: … and how often it has to be there before we doubt our consumer
LEAVING: Final = 2.0  #: seconds for giving back what was never handed out


class RabbitSource:
    """One consumer's hold on some queues.

    :param counts: whether the broker counts redeliveries of this kind of queue.
    """

    def __init__(
        self, link: Link, line: Line, sender: Sender, queues: Sequence[str], *, lease: float, counts: bool
    ) -> None:
        self._link = link
        self._line = line
        self._sender = sender
        self._lease = lease
        self._news = asyncio.Event()
        self._streams = [Stream(queue, counts=counts, news=self._news.set, look=sender.look) for queue in queues]
        self._consuming = asyncio.Lock()
        self._asking = 0  # how many wait in ``receive``
        self._asked = 0.0  # when somebody last did
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = False

    @property
    def held(self) -> dict[str, int]:
        """How many jobs of each queue are held, by this source: handed out, or sent to us to be handed out."""
        return {stream.queue: len(stream.unsettled) for stream in self._streams}

    async def hear(self, queue: str) -> None:
        """Come back when what the server has sent us so far is here."""
        within = self._link.address.timeout
        with self._link.errors("looking at what is held"):
            for stream in self._streams:
                lane = stream.lane
                if stream.queue == queue and lane is not None and not lane.is_closed:
                    await lane.sync(within, stream.prefetch)

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """At least one delivery; waits for it."""
        loop = asyncio.get_running_loop()
        self._asking += 1
        try:
            while True:
                batch = self._take(limit, loop.time())
                if batch:
                    await asyncio.sleep(0)
                    return batch
                self._news.clear()
                if any(stream.wants() for stream in self._streams):
                    await self._ensure(limit)
                    if any(stream.come for stream in self._streams):
                        continue
                if not await self._hear():
                    await self._doubt()
        finally:
            self._asking -= 1
            self._asked = loop.time()
            self._after(IDLE, self._look_idle)

    def _take(self, limit: int, now: float) -> list[Delivery]:
        """What has come, earlier queues first; nothing, if an earlier one may have something and was not asked."""
        batch: list[Delivery] = []
        expires = now + self._lease
        for stream in self._streams:
            while stream.come and len(batch) < limit:
                batch.append(stream.hand_out(expires))
            if len(batch) >= limit or (not batch and stream.wants()):
                break
        if batch:
            self._after(self._lease, self._sweep)
        return batch

    async def _hear(self) -> bool:
        """Wait for news; False if there is none for a while."""
        try:
            async with asyncio.timeout(SILENCE):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _doubt(self) -> None:
        """Nothing came for a while: either nothing is there, or the broker has forgotten our consumer.

        It does, without a word, when a queue is deleted and made again in the same moment.
        """
        with self._link.errors("looking for jobs"):
            for stream in self._streams:
                for _ in range(LOOKS):
                    ready = await self._sender.look(names.jobs(stream.queue))
                    if not ready or stream.come or stream.credit < 1:
                        break
                    await asyncio.sleep(AGAIN[0])
                else:
                    log.warning("queue %s has jobs and sends us none: consuming it anew", stream.queue)
                    stream.is_consuming = False
                    if not stream.unsettled:
                        await whole(stream.close(), self._link.address.timeout)

    async def _ensure(self, limit: int) -> None:
        """Consumers are there and may get so many jobs."""
        # A queue that somebody else is making in this moment ends the connection of whoever consumes it.
        for pause in AGAIN:
            try:
                with self._link.errors("consuming"):
                    return await whole(self._start(limit), self._link.address.timeout)
            except BrokerUnavailable as error:
                if error.__cause__ is None or isinstance(error.__cause__, TimeoutError):
                    raise  # it cannot be reached
                log.debug("consuming is tried again in %g s: %s", pause, error)
            await asyncio.sleep(pause)
        with self._link.errors("consuming"):
            return await whole(self._start(limit), self._link.address.timeout)

    async def _start(self, limit: int) -> None:
        within = self._link.address.timeout
        async with self._consuming:
            if self._left:
                raise ConnectionError("this source was left")
            wire = await self._line.open()
            for stream in self._streams:
                if stream.come:
                    return
                if stream.wants():
                    ready = await self._prepare(stream)
                    await stream.start(wire, min(limit, MOST), within)
                    if ready and stream is not self._streams[-1]:
                        await self._first_of(stream)

    async def _prepare(self, stream: Stream) -> int:
        """The queue is there; how many jobs are ready in it."""
        if stream.is_consuming and len(self._streams) == 1:
            return 0
        return await self._sender.make(stream.queue)

    async def _first_of(self, stream: Stream) -> None:
        """Give an earlier queue time to deliver, so that a later one does not come first."""
        try:
            async with asyncio.timeout(FIRST):
                while not stream.come and stream.is_open:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._news.set()

    # ── when nobody asks ──

    def _look_idle(self) -> None:
        loop = asyncio.get_running_loop()
        if self._asking or not any(stream.is_consuming for stream in self._streams):
            return
        rest = self._asked + IDLE - loop.time()
        if rest > 0:
            self._after(rest, self._look_idle)
        else:
            self._spawn(self._pause())

    async def _pause(self) -> None:
        """Nobody asks: stop consuming, and give back what has come meanwhile; somebody else may have time for it."""
        try:
            async with self._consuming:
                if not self._asking:
                    await self._stop()
        except (BrokerUnavailable, OSError, TimeoutError) as error:
            log.debug("stopping to consume: %s", error)  # the channel is gone, and with it what was to be given back

    async def recall(self) -> None:
        """What has come and was not handed out goes back; consuming begins anew with the next ``receive``."""
        async with self._consuming:
            await self._stop()
        self._news.set()

    async def _stop(self) -> None:
        within = self._link.address.timeout
        with self._link.errors("stopping to consume"):
            for stream in self._streams:
                await stream.stop(within)
        kept = [stream.hand_out(float("inf")) for stream in self._streams for _ in range(len(stream.come))]
        if kept:
            await self._carry_out([(delivery, Release()) for delivery in kept], within)

    # ── leases ──

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases anew; returns those that were lost before."""
        now = asyncio.get_running_loop().time()
        lost: list[Delivery] = []
        for delivery in batch:
            held: Held = delivery.receipt
            if held.state == Held.HELD and held.is_alive and held.expires > now:
                held.expires = now + self._lease
            elif held.state != Held.SETTLING:
                lost.append(delivery)
        return lost

    def _sweep(self) -> None:
        """Give back what was not extended in time."""
        now = asyncio.get_running_loop().time()
        soonest = float("inf")
        for stream in self._streams:
            for held in list(stream.unsettled.values()):
                if held is None or held.state != Held.HELD:
                    continue
                if held.expires <= now:
                    self._expire(held)
                else:
                    soonest = min(soonest, held.expires)
        if soonest < float("inf"):
            self._after(soonest - now, self._sweep)

    def _expire(self, held: Held) -> None:
        held.state = Held.OVER
        try:
            held.stream.give_back(held)
        except ConnectionError as error:
            log.debug("a lease ran out, and its channel is gone: %s", error)  # so the broker has it back already

    # ── settling ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; returns those whose lease was lost."""
        within = self._link.address.timeout
        return await whole(self._settle(batch, within), 4 * within) if batch else []

    async def _settle(self, batch: Sequence[tuple[Delivery, Verdict]], within: float) -> list[Delivery]:
        if not self._asking and any(isinstance(verdict, Release) for _, verdict in batch):
            await self.recall()  # or it would come straight back to us
        return await self._carry_out(batch, within)

    async def _carry_out(self, batch: Sequence[tuple[Delivery, Verdict]], within: float) -> list[Delivery]:
        lost: list[Delivery] = []
        mine: list[tuple[Held, Delivery, Verdict]] = []
        now = asyncio.get_running_loop().time()
        for delivery, verdict in batch:
            held: Held = delivery.receipt
            if held.state == Held.HELD and held.is_alive and held.expires > now:
                held.state = Held.SETTLING
                mine.append((held, delivery, verdict))
                continue
            if held.state == Held.HELD:
                self._expire(held)
            lost.append(delivery)
        try:
            failure = await self._copy(mine)
            ended = [held for held, _, _ in mine if held.state == Held.SETTLING]
            gone = {id(held) for held in ended if not held.is_alive}
            await self._end([held for held in ended if id(held) not in gone], within)
        finally:
            for held, _, _ in mine:
                if held.state == Held.SETTLING:
                    held.state = Held.HELD
        if failure is not None:
            raise failure
        return lost + [delivery for held, delivery, _ in mine if id(held) in gone]

    async def _copy(self, mine: Sequence[tuple[Held, Delivery, Verdict]]) -> BrokerUnavailable | None:
        """Write and confirm what has to be there before the job may go; what was not stored is held as before."""
        parcels: list[tuple[Held, Parcel]] = []
        kinds: set[type[Verdict]] = set()
        for held, delivery, verdict in mine:
            parcel = self._copy_of(held, delivery, verdict)
            if parcel is not None and len(parcel.body) > LARGEST:
                self._leave_whole(held, verdict, len(parcel.body))
            elif parcel is not None:
                parcels.append((held, parcel))
                kinds.add(type(verdict))
        if not parcels:
            return None
        answers = await self._sender.send([parcel for _, parcel in parcels], copies=True)
        for (held, _), answer in zip(parcels, answers, strict=True):
            if not isinstance(answer, Stored):
                held.state = Held.HELD
        for kind, name in POINTS.items():
            if kind in kinds:
                failpoint(name)
        return unavailable(answers)

    def _leave_whole(self, held: Held, verdict: Verdict, size: int) -> None:
        """No copy can be made of what is as large as this, so that it can only go as it is, without its story."""
        if isinstance(verdict, Release):
            held.way = Held.BACK
            return
        log.error(
            "queue %s: job %s has %s bytes with its story, too large to be copied; the broker moves it to the dead "
            "letters as it is",
            held.stream.queue,
            held.id or "?",
            f"{size:,}",
        )
        held.way = Held.DEAD

    def _copy_of(self, held: Held, delivery: Delivery, verdict: Verdict) -> Parcel | None:
        """What a verdict leaves behind."""
        job = Outgoing(delivery.queue, held.id, delivery.envelope, delivery.trail)
        match verdict:
            case Ack():
                return None
            case Reschedule(after=after, trail=trail):
                return self._sender.parcel(msgspec.structs.replace(job, trail=trail, delay=after), of=held.message_id)
            case Release():
                return self._sender.parcel(job, of=held.message_id, before=held.redeliveries)
            case Bury(reason=reason, trail=trail):
                job = msgspec.structs.replace(job, trail=trail)
                letter = parcel_of(
                    "", names.dead_letters(job.queue), job, of=held.message_id, reason=reason.encode(errors="replace")
                )
                return msgspec.structs.replace(letter, headers={**letter.headers, "tc-when": stamp()})
            case _:
                assert_never(verdict)

    async def _end(self, ended: Sequence[Held], within: float) -> None:
        """Acknowledge, and come back when the broker has heard it."""
        by_stream: dict[Stream, list[Held]] = {}
        for held in ended:
            by_stream.setdefault(held.stream, []).append(held)
        with self._link.errors("acknowledging"):
            waiting = []
            for stream, its in by_stream.items():
                await stream.may_end.wait()
                lane = stream.lane
                if lane is not None:
                    frames = stream.end(its)
                    for held in its:
                        held.state = Held.OVER
                    lane.write(frames)
                    waiting.append(lane.sync(within, stream.prefetch))
            for heard in waiting:
                await heard

    # ── leaving ──

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it then; if it is planned already, it stays as it was planned."""
        if what in self._timers or self._left:
            return

        def do() -> None:
            del self._timers[what]
            what()

        self._timers[what] = asyncio.get_running_loop().call_later(seconds, do)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def leave(self) -> None:
        """Give back what was never handed out; what was returns when its lease ends, or at once with the channel."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        try:
            async with asyncio.timeout(LEAVING):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                async with self._consuming:
                    self._left = True
                    await self._stop()
        except (BrokerUnavailable, OSError, TimeoutError) as error:
            log.debug("leaving: %s", error)
        finally:
            self._left = True
            for stream in self._streams:
                await stream.close()
