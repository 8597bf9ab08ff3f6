"""NatsSource: the jobs of some queues for one worker, earlier queues first.

One queue: a request waits at the server, so a job comes as soon as it is there. Several queues: each is asked in turn,
without waiting; only when all are empty a request for one job waits at each. Jobs that no caller takes within a moment
are given back, so none waits at a worker that has no room for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from taskcore.backend import Delivery
from taskcore.backends.nats.consumer import SIGN_OF_LIFE, CancelListener, PullConsumer, Receipt, guard_of
from taskcore.backends.nats.layout import NANO, QueueStream, QueueStreams
from taskcore.backends.nats.settle import NatsSettler
from taskcore.backends.nats.timers import DelayTimer
from taskcore.connections.nats import NatsLink
from taskcore.connections.nats.jetstream import stored_in
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import RELEASE, Verdict
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["NatsSource"]

log = logger("taskcore.backends.nats")

REST_AFTER: Final = 0.2  #: seconds without a call of receive, after which nothing more is asked for
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two looks at a queue that is not there
CLOSE_TIMEOUT: Final = 2.0  #: seconds that giving back may take at the end


class NatsSource:
    """The jobs of some queues for one worker."""

    def __init__(self, link: NatsLink, streams: QueueStreams, queues: Sequence[str], lease: float) -> None:
        self._link = link
        self._streams = streams
        self._queues = tuple(dict.fromkeys(queues))
        self._lease = lease
        self._guarded = lease + guard_of(lease)
        self._settler = NatsSettler(link, streams)
        self._consumers: list[PullConsumer] = []
        self._timers: list[DelayTimer] = []
        self._cancel_listeners: list[CancelListener] = []
        self._news = asyncio.Event()
        self._receiving = 0
        self._closing = False
        self._resting: asyncio.TimerHandle | None = None
        self._tasks = TaskSet("NATS source")
        self._setting: dict[int, bytes | None] = {}
        self._pause = FIRST_PAUSE
        self._empty: list[PullConsumer] = []  # queues that have said, since the last job, that they are empty

    async def open(self) -> None:
        """Create streams and consumers that do not exist.

        :raises BrokerUnavailable: one cannot be made, or is there with other settings.
        """
        for queue in self._queues:
            stream = await self._streams.open(queue)
            try:
                await self._streams.ensure_consumer(stream, ack_wait=self._guarded)
            except BrokerUnavailable:  # the stream we knew may be gone
                self._streams.discard(queue)
                stream = await self._streams.open(queue)
                await self._streams.ensure_consumer(stream, ack_wait=self._guarded)
            setting = self._own_setting(stream)
            self._setting[id(stream)] = setting
            consumer = PullConsumer(
                self._link, stream, consumer="worker", arrived=self._news.set, lease=self._lease, greeting=setting
            )
            self._consumers.append(consumer)
            self._cancel_listeners.append(CancelListener(self._link, consumer))
            if not stream.native:
                self._timers.append(await DelayTimer.start(self._link, self._streams, stream))

    async def close(self) -> None:
        """Give back the jobs that no caller took."""
        self._closing = True
        if self._resting is not None:
            self._resting.cancel()
        if any(consumer.busy for consumer in self._consumers):
            self._rest()
        for timer in self._timers:
            await timer.stop()
        for listener in self._cancel_listeners:
            listener.close()
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
            missing = limit - consumer.asked - len(consumer.waiting)
            if missing > 0 and (2 * missing >= limit or not consumer.asked) and not consumer.absent:
                consumer.pull(missing, wait=True)
            return
        if any(consumer.waiting or consumer.probing for consumer in self._consumers):
            return
        for consumer in self._consumers:
            if not consumer.asked and consumer not in self._empty and not consumer.absent:
                consumer.pull(limit, wait=False)
                self._empty.append(consumer)
                return
        for consumer in self._consumers:
            if not consumer.asked and not consumer.absent:
                consumer.pull(1, wait=True)

    async def _take(self, limit: int) -> list[Delivery]:
        """Return what has arrived, earlier queues first, without jobs that are no longer ours or were ended."""
        now = asyncio.get_running_loop().time()
        fresh: list[Receipt] = []
        again: list[Receipt] = []
        for consumer in self._consumers:
            waiting = consumer.waiting
            while waiting and len(fresh) + len(again) < limit:
                arrival = waiting.popleft()
                if now >= arrival.until:
                    log.warning(
                        "dropped a job of queue %s whose lease ended before a worker had room",
                        arrival.stream.names.queue,
                    )
                elif arrival.handed > 1:
                    again.append(arrival)
                else:
                    fresh.append(arrival)
        if again:
            try:
                fresh += await self._still_alive(again)
            except BaseException:
                for arrival in reversed(fresh + again):
                    self._consumer_of(arrival).waiting.appendleft(arrival)
                raise
        if fresh:
            self._empty = []
            self._pause = FIRST_PAUSE
        return [arrival.deliver() for arrival in fresh]

    async def _still_alive(self, again: list[Receipt]) -> list[Receipt]:
        """Return the jobs that no dead worker had replaced or buried before its end; end the others."""
        messages = []
        for arrival in again:
            names, token = arrival.stream.names, arrival.subject.rpartition(b".")[2].decode("utf-8", "replace")
            body = {"last_by_subj": f"{names.either}{token}"}
            messages.append(self._link.api_request(f"STREAM.MSG.GET.{names.stream}", body))
            body = {"last_by_subj": f"{names.dead}{token}.{arrival.number}"}
            messages.append(self._link.api_request(f"STREAM.MSG.GET.{names.dead_stream}", body))
        answers = await self._link.request_all(messages)
        stored = [stored_in(self._link.read_answer(answer, "STREAM.MSG.GET")) for answer in answers]
        alive: list[Receipt] = []
        over: list[Receipt] = []
        for arrival, latest, letter in zip(again, stored[::2], stored[1::2], strict=True):
            if letter is None and latest is not None and latest["seq"] == arrival.number:
                alive.append(arrival)
            else:  # replaced, buried, ended or removed meanwhile
                over.append(arrival)
        if over:
            await self._settler.end(over)
        return alive

    async def _wait(self) -> None:
        """Wait for news; mend a consumer that is gone."""
        if not self._link.connected:
            await self._link.ready()
            return
        for consumer in self._consumers:
            if consumer.absent or consumer.silent:
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
            gone = await self._streams.repair(consumer.stream.names.queue, ack_wait=self._guarded)
        finally:
            consumer.rest()
            consumer.absent = False
        if not gone:
            await self._sleep()
        self._empty = []

    async def _sleep(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _consumer_of(self, arrival: Receipt) -> PullConsumer:
        return next(consumer for consumer in self._consumers if consumer.stream is arrival.stream)

    # ── settling ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return those whose lease was lost."""
        return await self._settler.settle(batch)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases anew; return those that were lost before."""
        by_setting: dict[bytes | None, list[Delivery]] = {}
        for delivery in batch:
            by_setting.setdefault(self._setting.get(id(delivery.receipt.stream)), []).append(delivery)
        lost: list[Delivery] = []
        for setting, deliveries in by_setting.items():
            lost += await self._settler.extend(deliveries, lease=self._lease, setting=setting)
        return lost

    def _own_setting(self, stream: QueueStream) -> bytes | None:
        """Return what tells the server our lease, job by job, if the consumer was made with another one.

        It says "hand the job out again after so long", which is what a lease is; the job is ours until then.
        """
        if stream.ack_wait is not None and abs(stream.ack_wait - self._guarded) < 0.001:  # noqa: PLR2004 - rounding
            return None
        log.info(
            "queue %s was created with leases of %.3g s, this worker uses %.3g s: each delivery costs one more message",
            stream.names.queue,
            stream.ack_wait,
            self._guarded,
        )
        return b'-NAK {"delay": %d}' % (self._guarded * NANO)

    # ── giving back ──

    def _rest(self) -> None:
        """Withdraw the requests, because no caller receives; give back what has come nevertheless."""
        self._resting = None
        for consumer in self._consumers:
            consumer.rest()
        self._empty = []
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
        unwanted = [arrival.deliver() for arrival in arrivals if arrival.handed == 1]
        again = [arrival for arrival in arrivals if arrival.handed > 1]
        try:
            if again:
                unwanted += [arrival.deliver() for arrival in await self._still_alive(again)]
            await self._settler.settle([(delivery, RELEASE) for delivery in unwanted])
        except BrokerUnavailable as error:
            log.warning("could not give back %d jobs; they come again when their leases end: %s", len(unwanted), error)
