"""Receiving: earlier queues first, and no longer than the source is asked for jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle, groupby, islice
from math import inf
from typing import Final

from taskcore.backend import Delivery
from taskcore.backends.rabbitmq.consumer import Consumer, Receipt
from taskcore.backends.rabbitmq.layout import job_queue
from taskcore.backends.rabbitmq.publish import Sender
from taskcore.backends.rabbitmq.settle import Holdings
from taskcore.connections.amqp.admin_channel import CALLS_AT_ONCE
from taskcore.connections.amqp.connection import ReconnectingConnection
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import RELEASE, Release, Verdict
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.detached import run_detached
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet
from taskcore.toolkit.timeouts import SharedTimer

__all__ = ["RabbitSource"]

log = logger("taskcore.backends.rabbitmq")

IDLE_AFTER: Final = 0.1  #: seconds without a call of ``receive``, after which buffered jobs are returned
FIRST_DELIVERY: Final = 0.1  #: seconds that an earlier queue has to deliver the jobs that it is known to have
CONSUME_AGAIN: Final = (0.1, 0.2, 0.4)  #: seconds before a consumer that could not be started is tried again
STALL_AFTER: Final = 5.0  #: seconds without any job, after which the source checks whether there is one …
STALL_CHECKS: Final = 3  #: … and how often there must be one before the consumer counts as forgotten
STALL_CHECKED: Final = 10  #: queues that are looked at each time
STARTED_AT_ONCE: Final = 50  #: consumers that are started within one time limit
LEAVE_TIMEOUT: Final = 2.0  #: seconds for returning what was never handed out …
LEAVE_PER_QUEUE: Final = 0.01  #: … and for each queue


class RabbitSource:
    """One worker's hold on some queues.

    :param counts: whether the broker counts redeliveries of this kind of queue.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        sender: Sender,
        queues: Sequence[str],
        *,
        lease: float,
        counts: bool,
    ) -> None:
        self._connection = connection
        self._connections = (connection, sender.connection, sender.admin.connection)
        self._admin = sender.admin
        self._topology = sender.topology
        self._connector = connection.connector
        self._holdings = Holdings(self._connector, sender, lease=lease)
        self._news = asyncio.Event()
        self._queues: Sequence[str] = tuple(queues)
        self._consumers: dict[str, Consumer] = {}  # by queue, since the first job was asked for
        self._turn = cycle(self._queues)
        self._counts = counts
        self._consuming = asyncio.Lock()
        self._receiving = 0  # how many calls of ``receive`` wait
        self._received = 0.0  # when the last one ended
        self._timer = SharedTimer()
        self._idle = _RepeatedDeadline(self._check_idle)
        self._lease_ends = _RepeatedDeadline(lambda: self._holdings.expire(self._consumers.values()))
        self._tasks = TaskSet("RabbitMQ source")
        self._left = False

    @property
    def held(self) -> dict[str, int]:
        """How many jobs of each queue this source holds, buffered ones included."""
        return {queue: len(consumer.unsettled) for queue, consumer in self._consumers.items()}

    async def sync(self, queue: str) -> None:
        """Return when everything that the server has sent so far is here."""
        consumer = self._consumers.get(queue)
        if consumer is not None and not consumer.is_closed:
            with self._connector.errors("counting held jobs"):
                await consumer.sync(consumer.prefetch)

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one delivery; wait for it."""
        loop = asyncio.get_running_loop()
        self._receiving += 1
        try:
            while True:
                batch = self._take(limit, loop.time())
                if batch:
                    await asyncio.sleep(0)
                    return batch
                self._news.clear()
                if any(self._needs_credit(queue) for queue in self._queues):
                    await self._ensure_consuming(limit)
                    if any(consumer.buffer for consumer in self._consumers.values()):
                        continue
                try:
                    async with asyncio.timeout(STALL_AFTER):
                        await self._news.wait()
                except TimeoutError:
                    await self._check_stalled()
        finally:
            self._receiving -= 1
            self._received = loop.time()
            self._set(self._idle, IDLE_AFTER)

    def _take(self, limit: int, now: float) -> list[Delivery]:
        """Return buffered jobs, earlier queues first; none if an earlier queue may have some and was not asked."""
        batch: list[Delivery] = []
        expires = now + self._holdings.lease
        for queue in self._queues:
            consumer = self._consumers.get(queue)
            while consumer is not None and consumer.buffer and len(batch) < limit:
                batch.append(consumer.hand_out(expires))
            if len(batch) >= limit or (not batch and self._needs_credit(queue)):
                break
        if batch:
            self._set(self._lease_ends, self._holdings.lease)
        return batch

    def _needs_credit(self, queue: str) -> bool:
        """Return whether a queue must be consumed, or consumed again with more room."""
        consumer = self._consumers.get(queue)
        return consumer is None or consumer.credit < 1

    async def _check_stalled(self) -> None:
        """Consume anew if the broker has forgotten a consumer. Of many queues, a few are looked at each time.

        That happens, without a message, when a queue is deleted and declared again in the same moment.
        """
        names = islice(self._turn, min(STALL_CHECKED, len(self._queues)))
        with self._connector.errors("looking for jobs"):
            for consumer in [self._consumers[name] for name in names if name in self._consumers]:
                for _ in range(STALL_CHECKS):
                    ready = await self._admin.count(job_queue(consumer.queue))
                    if not ready or consumer.buffer or consumer.credit < 1:
                        break
                    await asyncio.sleep(CONSUME_AGAIN[0])
                else:
                    log.warning("queue %s has ready jobs and delivers none; consuming it again", consumer.queue)
                    consumer.is_consuming = False
                    if not consumer.unsettled:
                        await run_detached(consumer.close(), timeout=consumer.connection.timeout)

    async def _ensure_consuming(self, limit: int) -> None:
        """Start consumers, with room for so many jobs.

        A queue that another process is declaring at the moment closes the connection of its consumers; try again.
        """
        for pause in (*CONSUME_AGAIN, None):
            try:
                for _ in range(0, len(self._queues), STARTED_AT_ONCE):
                    if not await self._connector.run("consuming", self._start(limit)):
                        break
            except BrokerUnavailable as error:
                if pause is None or error.__cause__ is None or isinstance(error.__cause__, TimeoutError):
                    raise  # without a cause, or with a time limit as one, the broker cannot be reached
                log.debug("consuming is tried again in %g s: %s", pause, error)
                await asyncio.sleep(pause)
            else:
                return

    async def _start(self, limit: int) -> bool:
        """Start some consumers; return whether there may be more to start."""
        async with self._consuming:
            if self._left:
                raise ConnectionError("this source was left")
            part = list(islice(self._wanting(), STARTED_AT_ONCE))
            counted = await gather_limited(self._prepare, part, limit=CALLS_AT_ONCE)
            for has_jobs, some in groupby(zip(part, counted, strict=True), key=lambda pair: pair[1] > 0):
                consumers = [self._consumers[queue] for queue, _ in some]
                if not has_jobs:
                    await gather_limited(lambda consumer: consumer.start(limit), consumers, limit=CALLS_AT_ONCE)
                    continue
                for consumer in consumers:
                    await consumer.start(limit)
                    if consumer.queue != self._queues[-1]:
                        await self._wait_for_first(consumer)
                    if consumer.buffer:
                        return False
            return len(part) == STARTED_AT_ONCE

    def _wanting(self) -> Iterator[str]:
        """Yield the queues to consume, up to the first that has jobs here."""
        for queue in self._queues:
            consumer = self._consumers.get(queue)
            if consumer is not None and consumer.buffer:
                return
            if self._needs_credit(queue):
                yield queue

    async def _prepare(self, queue: str) -> int:
        """Make the consumer of a queue if there is none that lives; return how many of its jobs are ready."""
        consumer, ready = self._consumers.get(queue), 0
        connection = await self._connection.open()
        if consumer is None or not consumer.is_consuming or len(self._queues) > 1:
            ready = await self._topology.declare_queues(queue)
        if consumer is None or consumer.connection is not connection or consumer.is_closed:
            channel = await connection.channel()
            consumer = Consumer(connection, channel, queue, self._admin, self._news, counts=self._counts)
            self._consumers[queue] = consumer
        return ready

    async def _wait_for_first(self, consumer: Consumer) -> None:
        """Give an earlier queue time to deliver before a later one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_DELIVERY):
                while not consumer.buffer and not consumer.is_closed:
                    self._news.clear()
                    await self._news.wait()
        self._news.set()

    # ── when ``receive`` is not called ──

    def _set(self, alarm: _RepeatedDeadline, seconds: float) -> None:
        """Set an alarm, unless it is set already."""
        if alarm.ends == inf and not self._left:
            self._timer.add(alarm, seconds)

    def _check_idle(self) -> float:
        """Stop consuming after a while without a call; return the seconds until then."""
        if self._receiving or not any(consumer.is_consuming for consumer in self._consumers.values()):
            return inf
        rest = self._received + IDLE_AFTER - asyncio.get_running_loop().time()
        if rest > 0:
            return rest
        self._tasks.start(self._stop_when_idle())
        return inf

    async def _stop_when_idle(self) -> None:
        """Stop consuming and return what is buffered: another worker may have time for it."""
        try:
            async with self._consuming:
                if not self._receiving:
                    await self._stop()
        except (BrokerUnavailable, OSError, TimeoutError) as error:
            log.debug("could not stop consuming: %s", error)  # the channel is closed, so the broker requeued everything

    async def return_prefetched(self) -> None:
        """Return what is buffered to its queues; the next ``receive`` consumes again."""
        async with self._consuming:
            await self._stop()
        self._news.set()

    async def _stop(self) -> None:
        consumers = list(self._consumers.values())
        with self._connector.errors("stopping to consume"):
            await gather_limited(Consumer.stop, consumers, limit=CALLS_AT_ONCE)
        buffered = [consumer.hand_out(inf) for consumer in consumers for _ in range(len(consumer.buffer))]
        if buffered:
            await self._holdings.settle([(delivery, RELEASE) for delivery in buffered])

    # ── holding ──

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Restart the leases; return the deliveries whose lease was lost before."""
        return self._holdings.extend(batch)

    def ticket(self, delivery: Delivery) -> bytes | None:
        """Return nothing that an extender has to know, unless the lease has ended: the connection is the lease."""
        receipt: Receipt = delivery.receipt
        return None if receipt.state == Receipt.OVER or receipt.consumer.is_closed else b""

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Note that a heartbeat has extended these leases."""
        self._holdings.extended(batch, at)

    def stood_still(self, seconds: float) -> None:  # noqa: ARG002 - however long, the jobs were ours
        """Let the connections live: nothing was read from them meanwhile."""
        for connection in self._connections:
            if (current := connection.current) is not None:
                current.wake_up()

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost."""
        return await run_detached(self._settle(batch), timeout=4 * self._connector.address.timeout) if batch else []

    async def _settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        if not self._receiving and any(isinstance(verdict, Release) for _, verdict in batch):
            await self.return_prefetched()  # else this source would get the released jobs itself
        return await self._holdings.settle(batch)

    # ── leaving ──

    async def leave(self) -> None:
        """Return what was never handed out; held jobs return when their lease or their channel ends."""
        self._timer.close()
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT + LEAVE_PER_QUEUE * len(self._consumers)):
                await self._tasks.wait_closed()
                async with self._consuming:
                    self._left = True
                    await self._stop()
        except (BrokerUnavailable, OSError, TimeoutError) as error:
            log.debug("could not return buffered jobs before leaving: %s", error)
        finally:
            self._left = True
            await gather_limited(Consumer.close, list(self._consumers.values()), limit=CALLS_AT_ONCE)


class _RepeatedDeadline:
    """A deadline of a shared timer: calls a function, and again after as many seconds as it returns."""

    def __init__(self, expire: Callable[[], float]) -> None:
        self.ends = inf
        self.expire = expire
