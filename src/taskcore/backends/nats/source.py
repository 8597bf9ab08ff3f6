"""NatsSource: the jobs of some queues for one worker, earlier queues first.

One queue: a request waits at the server, so a job comes as soon as it is there. Several queues: each is asked in turn,
without waiting; only when all are empty a request for one job waits at each. Jobs that no caller takes within a moment
are given back, so none waits at a worker that has no room for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Final

from taskcore.backend import Delivery
from taskcore.backends.nats.consumer import SIGN_OF_LIFE, PullConsumer, Receipt, guard_of, hand_out_in, pace_of
from taskcore.backends.nats.delays import DelayTimer
from taskcore.backends.nats.layout import QueueStream, QueueStreams
from taskcore.backends.nats.settle import NatsSettler
from taskcore.connections.nats import NatsLink, jetstream
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import RELEASE
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["NatsSource"]

log = logger("taskcore.backends.nats")

REST_AFTER: Final = 0.2  #: seconds without a call of receive, after which nothing more is asked for
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two looks at a queue that is not there
RIGHT_COUNTS: Final = (2, 10)  #: the version from which a consumer's counts of delivered and ended messages are right
OPENED_AT_ONCE: Final = 20  #: queues
SWEEP_AFTER: Final = 5.0  #: seconds after a connection was made, and between two sweeps of a queue
SWEEP_PAUSE: Final = 0.4  #: seconds between two queues: many of them are swept in the background, over minutes
JUST_READ: Final = 0.25  #: seconds that one turn of the loop may take which stood still before
SILENT_OUTAGE: Final = 0.5  #: seconds for which a connection may be gone before an idle worker says so
CLOSE_TIMEOUT: Final = 2.0  #: seconds that giving back may take at the end


class NatsSource(NatsSettler):
    """The jobs of some queues for one worker."""

    def __init__(self, link: NatsLink, streams: QueueStreams, queues: Sequence[str], lease: float) -> None:
        super().__init__(link, streams, lease)
        self._queues = tuple(dict.fromkeys(queues))
        self._guarded = lease + guard_of(lease)
        self._consumers: list[PullConsumer] = []
        self._timers: list[DelayTimer] = []
        self._news = asyncio.Event()
        self._receiving = 0
        self._closing = False
        self._resting: asyncio.TimerHandle | None = None
        self._tasks = TaskSet("NATS source")
        self._sweeping = TaskSet("NATS source")
        self._lost = asyncio.Event()
        self._pause = FIRST_PAUSE
        self._stills = 0  # how often the loop stood still
        self._empty = set[PullConsumer]()  # queues that have said, since the last job, that they are empty

    async def open(self) -> None:
        """Create streams and consumers that do not exist.

        :raises BrokerUnavailable: one cannot be made, or is there with other settings.
        """
        streams = await gather_limited(self._open_stream, self._queues, limit=OPENED_AT_ONCE)
        for stream in streams:
            greeting = self._greeting(stream)
            self._consumers.append(
                PullConsumer(
                    self._link,
                    stream,
                    name="worker",
                    arrived=self._news.set,
                    lease=self._lease,
                    pace=pace_of(len(streams)),
                    greeting=greeting,
                    notices=self._link.version_numbers >= RIGHT_COUNTS,
                )
            )
        timed = [stream for stream in streams if not stream.native]
        for stream in timed:
            slow = pace_of(2 * len(timed))  # no job waits for a timer's request
            self._timers.append(DelayTimer(self._link, self._streams, stream, slow))
        await gather_limited(DelayTimer.start, self._timers, limit=OPENED_AT_ONCE)
        self._link.on_lost.append(self._lost.set)
        if self._link.version_numbers >= RIGHT_COUNTS:
            self._sweeping.start(self._sweep(), name="taskcore-nats-sweep")

    async def _sweep(self) -> None:
        """Sweep each queue after a connection was made, until all jobs that were handed out before have ended."""
        while True:
            self._lost.clear()
            left = {consumer.stream: inf for consumer in self._consumers}
            while left and not self._lost.is_set():
                await asyncio.sleep(SWEEP_AFTER)
                with suppress(BrokerUnavailable):
                    for stream in tuple(left):
                        await asyncio.sleep(SWEEP_PAUSE)
                        ended, handed_out = await self._streams.sweep(stream)
                        left[stream] = min(left[stream], handed_out)
                        if ended >= left[stream]:
                            del left[stream]
            await self._lost.wait()

    async def _open_stream(self, queue: str) -> QueueStream:
        stream = await self._streams.open(queue)
        try:
            await self._streams.ensure_consumer(stream, ack_wait=self._guarded)
        except BrokerUnavailable:  # the stream we knew may be gone
            self._streams.discard(queue)
            stream = await self._streams.open(queue)
            await self._streams.ensure_consumer(stream, ack_wait=self._guarded)
        return stream

    def _greeting(self, stream: QueueStream) -> bytes:
        """Return what tells the server our lease, job by job, if the consumer was made with another one.

        It says "hand the job out again after so long", which is what a lease is; the job is ours until then.
        """
        if stream.ack_wait is not None and abs(stream.ack_wait - self._guarded) < 0.001:  # noqa: PLR2004 - rounding
            return b""
        log.info(
            "queue %s was created with leases of %.3g s, this worker uses %.3g s: each delivery costs one more message",
            stream.queue,
            stream.ack_wait,
            self._guarded,
        )
        return hand_out_in(self._guarded)

    async def close(self) -> None:
        """Give back the jobs that no caller took."""
        self._closing = True
        if self._lost.set in self._link.on_lost:
            self._link.on_lost.remove(self._lost.set)
        await self._sweeping.cancel()
        if self._resting is not None:
            self._resting.cancel()
        if any(consumer.busy for consumer in self._consumers):
            self._rest()
        await gather_limited(DelayTimer.stop, self._timers, limit=len(self._timers))
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._tasks.wait_closed()
        await self._tasks.cancel()
        for consumer in self._consumers:
            consumer.close()

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one and at most ``limit`` deliveries."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._receiving += 1
        try:
            while True:
                self._news.clear()
                self._ask(limit)
                found = await self._take(limit)
                if found:
                    return found
                await self._wait()
        finally:
            self._receiving -= 1
            if not self._receiving and not self._closing and any(consumer.busy for consumer in self._consumers):
                self._resting = asyncio.get_running_loop().call_later(REST_AFTER, self._rest)

    def _ask(self, limit: int) -> None:
        """Let the server send as many as are wanted, and no more."""
        if len(self._consumers) == 1:
            [consumer] = self._consumers
            if consumer.awaits_notice:
                return
            missing = limit - consumer.asked - len(consumer.waiting)
            if missing > 0 and (2 * missing >= limit or not consumer.asked) and not consumer.absent:
                consumer.pull(missing, wait=True)
            return
        if any(consumer.waiting or consumer.probing for consumer in self._consumers):
            return
        for consumer in self._consumers:
            if not consumer.asked and (consumer.noticed or consumer not in self._empty) and not consumer.absent:
                consumer.pull(limit, wait=False)
                self._empty.add(consumer)
                return
        for consumer in self._consumers:
            if not consumer.asked and not consumer.absent:
                consumer.pull(1, wait=True)

    async def _take(self, limit: int) -> list[Delivery]:
        """Return what has arrived, earlier queues first, without jobs that are no longer ours or were ended."""
        now = asyncio.get_running_loop().time()
        found: list[Receipt] = []
        for consumer in self._consumers:
            while consumer.waiting and len(found) < limit:
                arrival = consumer.waiting.popleft()
                if now < arrival.until:
                    found.append(arrival)
                else:
                    queue = arrival.stream.queue
                    log.warning("dropped a job of queue %s whose lease ended before a worker had room", queue)
        try:
            alive = await self._still_alive(found)
        except BaseException:
            for arrival in reversed(found):
                arrival.consumer.waiting.appendleft(arrival)
            raise
        if alive:
            self._empty.clear()
            self._pause = FIRST_PAUSE
        return [arrival.deliver() for arrival in alive]

    async def _still_alive(self, arrivals: list[Receipt]) -> list[Receipt]:
        """Return the jobs that no dead worker had replaced or buried before its end; end the others."""
        # Our tokens are ASCII; JetStream's API cannot be asked about each that another program makes.
        again = [arrival for arrival in arrivals if arrival.handed > 1 and arrival.token.isascii()]
        if not again:
            return arrivals
        calls = []
        for arrival in again:
            stream, token = arrival.stream, arrival.token.decode()
            job, letter = f"{stream.either}{token}", f"{stream.dead}{token}.{arrival.number}"
            calls.append(jetstream.message_call(stream.name, last_by_subj=job))
            calls.append(jetstream.message_call(stream.dead_name, last_by_subj=letter))
        stored = [jetstream.stored_in(answer) for answer in await self._link.api_all(calls)]
        over = [
            arrival  # replaced, buried, ended or removed meanwhile
            for arrival, latest, buried in zip(again, stored[::2], stored[1::2], strict=True)
            if buried is not None or latest is None or latest.number != arrival.number
        ]
        await self.end(over)
        return [arrival for arrival in arrivals if arrival not in over]

    async def _wait(self) -> None:
        """Wait for news; mend a consumer that is gone."""
        if not self._link.connected:
            await self._link.ready(within=SILENT_OUTAGE)
            return
        for consumer in self._consumers:
            if consumer.is_lost:
                await self._repair(consumer)
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGN_OF_LIFE):
                await self._news.wait()
        if any(consumer.crowded for consumer in self._consumers):
            for consumer in self._consumers:
                consumer.crowded = False
            await self._sleep()

    async def _repair(self, consumer: PullConsumer) -> None:
        """Create a consumer anew that is gone or does not answer."""
        try:
            gone = await self._streams.repair(consumer.stream, ack_wait=self._guarded)
        finally:
            consumer.rest()
        if not gone:
            await self._sleep()
        self._empty.clear()

    async def _sleep(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    # ── a loop that stood still ──

    def stood_still(self, seconds: float) -> None:
        """Count the leases of what is read now, and of what was read just before, from when it may have come."""
        just_read = asyncio.get_running_loop().time() + self._lease - JUST_READ
        for consumer in self._consumers:
            for arrival in consumer.waiting:
                if arrival.until > just_read:
                    arrival.until -= seconds
            consumer.lease = self._lease - seconds if seconds < self._lease / 2 else 0.0
        self._stills += 1
        self._tasks.start(self._catch_up(self._stills))

    async def _catch_up(self, still: int) -> None:
        """Wait until everything is read that came meanwhile."""
        await self._link.round_trip(timeout=CLOSE_TIMEOUT)
        if still == self._stills:
            for consumer in self._consumers:
                consumer.lease = self._lease

    # ── giving back ──

    def _rest(self) -> None:
        """Withdraw the requests, because no caller receives; give back what has come nevertheless."""
        self._resting = None
        for consumer in self._consumers:
            consumer.rest()
        self._empty.clear()
        self._tasks.start(self._give_back())

    async def _give_back(self) -> None:
        """Give back what has arrived after a round trip, unless a caller receives again by then."""
        await self._link.round_trip(timeout=CLOSE_TIMEOUT)
        if self._receiving and not self._closing:
            return
        arrivals = [arrival for consumer in self._consumers for arrival in consumer.waiting]
        for consumer in self._consumers:
            consumer.waiting.clear()
        if not arrivals or not self._link.connected:
            return
        try:
            unwanted = await self._still_alive(arrivals)
            await self.settle([(arrival.deliver(), RELEASE) for arrival in unwanted])
        except BrokerUnavailable as error:
            log.warning("could not give back %d jobs; they come again when their leases end: %s", len(arrivals), error)
