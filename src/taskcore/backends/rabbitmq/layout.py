"""Everything of ours on the broker: its names, its arguments, how a job finds its way, and how it is declared.

    tc.jobs        direct exchange    <queue> ─▶ tc.q.<queue>                a job that is due
    tc.schedule    direct exchange    <queue> ─▶ tc.delay                    a job for later
    tc.delay       headers exchange   its first level, k ─▶ queue tc.delay.<k>, where it waits 2^k × 125 ms
    tc.delay.<k>   headers exchange   its next level behind k ─▶ queue of that level
                                      no more levels ─▶ tc.due
    tc.due         direct exchange    <queue> ─▶ tc.q.<queue>                behind its last level
                                      nothing bound ─▶ tc.lost               its queue was deleted meanwhile
    tc.delay.made  nothing            declared last: it proves that all levels and their bindings exist

    tc.q.<queue>      the jobs            delivery limit as a safety net, over it ─▶ tc.dead.<queue>
    tc.dead.<queue>   the dead letters    kept until dropped
    tc.queues         names of queues     because the protocol cannot list them
    <both>.reader     nothing             a lock: exclusive to the connection that browses the queue
    tc.lost           jobs whose queue is gone; 30 days, the latest 100,000

A delay is the sum of the levels whose bits are set in it. A delayed job passes them from the highest to the lowest, and
its headers name the next level behind each: ``tc-in: 6``, ``tc-6: 4``, ``tc-4: due``. A hop is one lookup in one
exchange; bits as words of a topic key cost the broker a walk over the whole key at each of 31 exchanges. Delays are
rounded up to 125 ms and end after 8.5 years. All queues but ``tc.q.<queue>`` are always quorum queues, because every
app of a virtual host shares them.

A queue exists before it is *open*; open means bound, so that jobs reach it. Some seconds lie in between
(``min_queue_age``): a node that is killed within the first moments of a new quorum queue forgets the queue and every
confirmed job in it. A job for a queue that is not open is returned to its sender, surely not stored, and the sender
opens the queue. Opening goes on when a caller stops waiting for it. An outage restarts the time, because a node that
comes back makes the queues anew that it forgot. Nothing that exists is ever changed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec
from aio_pika.abc import AbstractChannel

from taskcore.connections.amqp.admin_channel import CALLS_AT_ONCE, AdminChannel
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet
from taskcore.toolkit.urls import choice, seconds, whole

__all__ = [
    "DUE", "JOBS", "LEVELS", "LOST", "MAX_DELAY", "OPTIONS", "QUEUE_NAMES", "SCHEDULE", "QueueOptions", "Topology",
    "dead_queue", "delay_route", "delay_units", "job_queue", "level", "level_bindings",
]  # fmt: skip

log = logger("taskcore.backends.rabbitmq")

JOBS: Final = "tc.jobs"
SCHEDULE: Final = "tc.schedule"
DUE: Final = "tc.due"
DELAY: Final = "tc.delay"
LEVELS_MADE: Final = "tc.delay.made"
LOST: Final = "tc.lost"
QUEUE_NAMES: Final = "tc.queues"

DELAY_UNIT: Final = 0.125  #: seconds that the shortest level waits
LEVELS: Final = 31
MAX_DELAY: Final = DELAY_UNIT * (2**LEVELS - 1)  #: seconds
OPENED_AT_ONCE: Final = 4  #: queues; all of them at once would wait for each other until their time is over
LOOK_AGAIN: Final = 0.001  #: seconds
LAST_HOP: Final = "due"  #: stands for the next level behind the last one

#: Deliveries: -1 means "none" to some versions and "no limit" to others.
NO_DELIVERY_LIMIT: Final = {"x-delivery-limit": 1_000_000_000}
QUORUM: Final = {"x-queue-type": "quorum", **NO_DELIVERY_LIMIT}
LOSSLESS: Final = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
#: A policy with max-length drops no letter, unless it says drop-head.
DEAD: Final = {**QUORUM, "x-overflow": "reject-publish"}
LOST_ARGUMENTS: Final = {**QUORUM, "x-message-ttl": 30 * 86_400_000, "x-max-length": 100_000, "x-overflow": "drop-head"}

AmqpArguments = dict[str, Any]


# ── options ──────────────────────────────────────────────────────────────────────────────────────


class QueueOptions(msgspec.Struct, frozen=True):
    """The part of a URL that is about queues.

    :param limit: ready jobs that a queue holds before it refuses more.
    :param consumer_timeout: seconds that a job may run before the broker takes it back; 0: the broker's own setting.
    :param min_queue_age: seconds that a new queue must exist before it gets its first job. A busy node forgot queues of
        two seconds after SIGKILL.
    """

    queue_type: Literal["quorum", "classic"] = "quorum"
    limit: int | None = None
    consumer_timeout: int = 86_400
    min_queue_age: float = 4.0


#: How each of them is read from a URL.
OPTIONS: Final = {
    "queue_type": choice("quorum", "classic"),
    "limit": whole(1, 1 << 40),
    "consumer_timeout": whole(0, 1 << 31),
    "min_queue_age": seconds(0, 60, above_zero=False),
}


# ── names and arguments ──────────────────────────────────────────────────────────────────────────


def job_queue(queue: str) -> str:
    """Return the broker's name of a queue."""
    return f"tc.q.{queue}"


def dead_queue(queue: str) -> str:
    """Return the broker's name of the queue of its dead letters."""
    return f"tc.dead.{queue}"


def level(number: int) -> str:
    """Return the name of a delay level's queue, and of the exchange behind it."""
    return f"{DELAY}.{number}"


def delay_units(delay: float) -> int:
    """Return a delay above 0 in units, rounded up: no job is early, and each passes one level at least."""
    return max(math.ceil(delay / DELAY_UNIT - 1e-9), 1)


def delay_route(units: int) -> dict[str, str]:
    """Return the headers of a job that waits so long: its first level, and the next one behind each."""
    bits = [number for number in reversed(range(LEVELS)) if units >> number & 1]
    return dict(zip([_hop(None), *map(_hop, bits)], [*map(str, bits), LAST_HOP], strict=True))


def level_bindings(number: int | None) -> dict[str, AmqpArguments]:
    """Return what is bound behind a level (None: before the first), each with the headers of the jobs that go there."""
    lower = range(LEVELS if number is None else number)
    bindings = {level(below): {"x-match": "all", _hop(number): str(below)} for below in lower}
    return bindings if number is None else bindings | {DUE: {"x-match": "all", _hop(number): LAST_HOP}}


def _hop(number: int | None) -> str:
    return "tc-in" if number is None else f"tc-{number}"


def _job_arguments(queue: str, options: QueueOptions) -> AmqpArguments:
    arguments: AmqpArguments = {
        "x-queue-type": options.queue_type,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_queue(queue),
    }
    if options.queue_type == "quorum":
        arguments |= LOSSLESS | NO_DELIVERY_LIMIT
    if options.limit is not None:
        arguments["x-max-length"] = options.limit
    if options.consumer_timeout:
        arguments["x-consumer-timeout"] = options.consumer_timeout * 1000
    return arguments


def _level_arguments(number: int) -> AmqpArguments:
    ttl = int(DELAY_UNIT * 1000) << number
    return {**QUORUM, **LOSSLESS, "x-message-ttl": ttl, "x-dead-letter-exchange": level(number)}


# ── declaring ────────────────────────────────────────────────────────────────────────────────────


class Topology:
    """What one backend declared on the broker or found there.

    :param announce: writes the name of a queue where other apps find it, before it is opened.
    """

    def __init__(self, admin: AdminChannel, options: QueueOptions, announce: Callable[[str], Awaitable[None]]) -> None:
        self._admin = admin
        self._options = options
        self._announce = announce
        # when a queue was declared or first seen, by the loop's clock; and through which connection
        self._known: dict[str, tuple[float, FilteredConnection | None]] = {}
        self._open: dict[str, float] = {}  # and since when
        self._levels_known: float | None = None
        self._levels_doubted = False  # whether a level may be missing although LEVELS_MADE exists
        self._declaring = asyncio.Lock()  # the levels
        self._opening_some = asyncio.Semaphore(OPENED_AT_ONCE)
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._tasks = TaskSet("RabbitMQ backend")

    async def declare(self) -> None:
        """Declare what every app of the virtual host needs: exchanges, and the queues for names and lost jobs.

        :raises BrokerUnavailable: the broker cannot be reached, or something else has one of our names.
        """
        admin = self._admin
        await admin.declare_exchange(JOBS, "direct")
        await admin.declare_exchange(SCHEDULE, "direct")
        await admin.declare_exchange(LOST, "fanout")
        await admin.declare_exchange(DUE, "direct", {"alternate-exchange": LOST})
        await admin.declare_queue(QUEUE_NAMES, QUORUM)
        await admin.declare_queue(LOST, LOST_ARGUMENTS)
        await admin.bind("queue", LOST, LOST, "")

    async def redeclare(self) -> None:
        """Declare everything again, because the exchanges are gone."""
        log.warning("the exchanges of this virtual host are gone; declaring them again. Was the broker reset?")
        self._known.clear()
        self._open.clear()
        self._levels_known = None
        await self.declare()

    async def prepare(self, queue: str) -> None:
        """Declare a queue, and begin to open it.

        :raises BrokerUnavailable: it exists with other arguments; the text has the difference.
        """
        await self.declare_queues(queue)
        self.start_opening(queue)

    async def declare_queues(self, queue: str) -> int:
        """Declare a queue and its dead letters if they are missing or unknown; return how many jobs are ready.

        :raises BrokerUnavailable: it exists with other arguments; the text has the difference.
        """
        counted = await self._admin.count(job_queue(queue))
        if counted is None or queue not in self._known:
            await self._declare_queues(queue, known_missing=counted is None)
        return counted or 0

    async def _declare_queues(self, queue: str, *, known_missing: bool = False) -> None:
        arguments = _job_arguments(queue, self._options)
        made = await self._admin.declare_queue(dead_queue(queue), DEAD, known_missing=known_missing)
        made |= await self._admin.declare_queue(job_queue(queue), arguments, known_missing=known_missing)
        if made:
            self._open.pop(queue, None)
            age = self._options.min_queue_age
            log.info("queue %s is new here; its first job waits until it is %g s old", queue, age)
        if made or queue not in self._known:
            self._known[queue] = asyncio.get_running_loop().time(), self._admin.connection.current

    async def open(self, queue: str) -> None:
        """Let jobs in as soon as the queue is old enough; a cancelled caller does not stop it."""
        self.start_opening(queue)
        opening = self._opening[queue]
        await asyncio.wait({opening})
        if opening.cancelled():
            raise BrokerUnavailable(f"queue {queue} was not opened: its app was closed meanwhile", fix="open it again")
        opening.result()

    def start_opening(self, queue: str) -> None:
        """Begin to open a queue; if that fails, its next sender tries again."""
        if queue not in self._opening:
            opening = self._opening[queue] = self._tasks.start_awaited(self._bind_when_old_enough(queue))
            opening.add_done_callback(lambda done: self._opened(queue, done))

    async def _bind_when_old_enough(self, queue: str) -> None:
        if queue in self._open:
            return
        rest = 1.0
        while rest > 0:
            async with self._opening_some:
                rest = await self._seconds_too_young(queue)
            await asyncio.sleep(max(rest, 0.0))
        await self._announce(queue)
        async with self._opening_some:
            await self._admin.bind("queue", job_queue(queue), DUE, queue)
            await self._admin.bind("exchange", DELAY, SCHEDULE, queue)
            await self._admin.bind("queue", job_queue(queue), JOBS, queue)  # last: it proves the others
        self._open[queue] = asyncio.get_running_loop().time()

    async def _seconds_too_young(self, queue: str) -> float:
        """Return the seconds until a queue is old enough; declare it again if the connection was lost meanwhile."""
        _, connection = self._known.get(queue, (0.0, None))
        if connection is None or connection is not self._admin.connection.current:
            self._known.pop(queue, None)
            await self._declare_queues(queue)
        if self._levels_known is None:
            async with self._declaring:
                await self._declare_levels()
            return LOOK_AGAIN  # the connection may have been lost meanwhile
        since = max(self._known[queue][0], self._levels_known)
        return since + self._options.min_queue_age - asyncio.get_running_loop().time()

    def _opened(self, queue: str, done: asyncio.Task[None]) -> None:
        del self._opening[queue]
        if not done.cancelled() and done.exception() is not None:
            log.debug("queue %s could not be opened; its next sender tries again: %s", queue, done.exception())

    async def close(self) -> None:
        """Stop opening queues."""
        await self._tasks.cancel()

    def mark_unrouted(self, queue: str, sent: float) -> None:
        """Note that a job was returned: its queue is missing or not open, or a level is missing.

        :param sent: when that job was sent; the queue may have been opened since.
        """
        opened = self._open.get(queue)
        if opened is not None and opened > sent:
            return
        if opened is not None:  # something was deleted, perhaps a level
            self._levels_doubted, self._levels_known = True, None
        self._forget(queue)

    def _forget(self, queue: str) -> None:
        self._open.pop(queue, None)
        if queue not in self._opening:  # else each returned job would restart the queue's age
            self._known.pop(queue, None)

    async def delete(self, queue: str) -> None:
        """Delete a queue and its dead letters."""
        self._forget(queue)

        async def delete(channel: AbstractChannel) -> None:
            await channel.queue_delete(job_queue(queue))
            await channel.queue_delete(dead_queue(queue))
            await (await channel.get_exchange(DELAY, ensure=False)).unbind(SCHEDULE, queue)

        await self._admin.call(f"deleting queue {queue}", delete)

    async def _declare_levels(self) -> None:
        # A few at a time: the node syncs its disk for each, and once for those that come together. Only the queues need
        # an age, so they are bound while they and the first queue of jobs grow old.
        if self._levels_known is not None:
            return
        since = 0.0
        if self._levels_doubted or not await self._admin.has_exchange(LEVELS_MADE):
            await self._admin.declare_exchange(DELAY, "headers")
            await gather_limited(self._declare_level, range(LEVELS), limit=CALLS_AT_ONCE)
            since = asyncio.get_running_loop().time()
            bindings = [(number, *one) for number in (None, *range(LEVELS)) for one in level_bindings(number).items()]
            await gather_limited(self._bind_level, bindings, limit=CALLS_AT_ONCE)
            await self._admin.declare_exchange(LEVELS_MADE, "fanout")
            self._levels_doubted = False
        self._levels_known = since

    async def _declare_level(self, number: int) -> None:
        # What another program has put into a level has no way on; it would stay, and after some hold up all.
        await self._admin.declare_exchange(level(number), "headers", {"alternate-exchange": LOST})
        await self._admin.declare_queue(level(number), _level_arguments(number), known_missing=True)

    async def _bind_level(self, binding: tuple[int | None, str, AmqpArguments]) -> None:
        number, target, headers = binding
        source = DELAY if number is None else level(number)
        await self._admin.bind("exchange" if target == DUE else "queue", target, source, "", headers)
