"""QueueStreams: the stream and the consumers of each queue, created when first needed, checked when found.

    <prefix>.q.<queue>.<job>            ready or leased              stream <prefix>-q-<queue>
    <prefix>.s.<queue>.<job>            scheduled                    the same stream
    <prefix>.d.<queue>.<job>.<number>   dead letter                  stream <prefix>-d-<queue>

A stream that exists with settings that break a guarantee is refused, never changed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final

from nats.js import api

from taskcore.backends.nats.messages import queue_token
from taskcore.connections.nats import Message, NatsLink, jetstream
from taskcore.connections.nats.link import NO_CONSUMER, error_of
from taskcore.toolkit.logging import logger

__all__ = ["CLOCK", "FAMILY_LEVEL", "NANO", "PARKED_LEASE", "SCHEDULES_LEVEL", "QueueStream", "QueueStreams"]

log = logger("taskcore.backends.nats")

NANO: Final = 1_000_000_000
CLOCK: Final = b"~clock"  #: stands for a job where only the time is asked for
SCHEDULES_LEVEL: Final = 2  #: the level of the API from which servers have schedules
FAMILY_LEVEL: Final = 1  #: the level from which a write may expect something of other subjects
PARKED_LEASE: Final = 5.0  #: seconds for which a scheduled job is in a timer's hands
WAITING_PULLS: Final = 10_000  #: workers that may wait at one queue
#: What is compared where a stream exists: of every one, and of one with jobs.
CHECKED_ALWAYS: Final = ("subjects", "retention", "discard", "max_msgs", "max_age")
CHECKED: Final = (
    *CHECKED_ALWAYS, "storage", "num_replicas", "max_msgs_per_subject", "max_bytes", "duplicate_window",
    "allow_msg_schedules",
)  # fmt: skip
DELETED_LIMIT: Final = 1_000  #: numbers of deleted jobs that are remembered


class QueueStream:
    """One queue on the server: what its parts are called, and what this process knows about it.

    :param native: whether its stream has schedules; otherwise timers of ours do that.
    :param ack_wait: seconds for which a delivery is leased by its consumer, None if there is none.
    :param generation: counts how often its consumer had to be created anew; leases of before are void.
    :param deleted: numbers of jobs that a caller deleted while this process had handed them out.
    """

    def __init__(self, link: NatsLink, queue: str) -> None:
        prefix, token = link.address.prefix, queue_token(queue)
        self.queue = queue
        self.name = f"{prefix}-q-{token}"
        self.dead_name = f"{prefix}-d-{token}"
        self.ready = f"{prefix}.q.{token}."
        self.scheduled = f"{prefix}.s.{token}."
        self.either = f"{prefix}.*.{token}."
        self.dead = f"{prefix}.d.{token}."
        self.withdrawn = f"{prefix}.withdrawn.{token}"
        self.ready_bytes, self.scheduled_bytes, self.either_bytes = (
            subject.encode() for subject in (self.ready, self.scheduled, self.either)
        )
        self.clock = jetstream.BrokerClock(link, self.name, Message(self.scheduled_bytes + CLOCK, b""))
        self.native = False
        self.ack_wait: float | None = None
        self.generation = 0
        self.deleted: deque[int] = deque(maxlen=DELETED_LIMIT)


class QueueStreams:
    """All queues that this process knows."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._streams: dict[str, QueueStream] = {}
        self._dead: set[str] = set()
        self._making = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by queue

    def named(self, queue: str) -> QueueStream:
        """Return the queue for its names, whether it exists or not."""
        return self._streams.get(queue) or QueueStream(self._link, queue)

    def known(self, queue: str) -> QueueStream | None:
        """Return the queue, if this process has seen its stream."""
        return self._streams.get(queue)

    def discard(self, queue: str) -> None:
        """Forget a queue that is gone, or not as it was."""
        self._streams.pop(queue, None)
        self._dead.discard(queue)

    async def open(self, queue: str) -> QueueStream:
        """Return the queue, created if it does not exist.

        :raises BrokerUnavailable: it cannot be created, or is there with other settings.
        """
        if queue not in self._streams:
            async with self._making[queue]:
                if queue not in self._streams:
                    self._streams[queue] = await self._make(queue)
        return self._streams[queue]

    async def find(self, queue: str) -> tuple[QueueStream, dict[str, Any]] | None:
        """Return the queue and its stream's state, without creating it."""
        stream = self.named(queue)
        info = await self._link.api(f"STREAM.INFO.{stream.name}")
        if "error" in info:
            self.discard(queue)
            return None
        if queue not in self._streams:
            self._streams[queue] = self._accept(stream, info["config"])
        return stream, info

    async def _make(self, queue: str) -> QueueStream:
        stream = QueueStream(self._link, queue)
        # A stream with a limit refuses what is too much, and servers cannot do that and schedule.
        native = self._link.level >= SCHEDULES_LEVEL and self._link.address.max_bytes is None
        return self._accept(stream, await jetstream.ensure_stream(self._link, self._config(stream, native=native)))

    def _accept(self, stream: QueueStream, found: Mapping[str, Any]) -> QueueStream:
        stream.native = bool(found.get("allow_msg_schedules"))
        wanted = self._config(stream, native=stream.native)
        if self._link.address.max_bytes is None and found.get("discard") == "new":
            del wanted["max_bytes"]
        jetstream.check_settings(self._link, stream.name, wanted, found, CHECKED)
        return stream

    def _config(self, stream: QueueStream, *, native: bool) -> dict[str, Any]:
        config = jetstream.stream_config(
            self._link,
            stream.name,
            [f"{stream.ready}*", f"{stream.scheduled}*"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            max_msgs_per_subject=1,  # a copy replaces the job that it is a copy of, in one step
            # Servers schedule in streams without limits only: nothing is old in them.
            discard=api.DiscardPolicy.OLD if native else api.DiscardPolicy.NEW,
        )
        return config | {"allow_msg_schedules": True} if native else config

    async def ensure_dead(self, stream: QueueStream) -> None:
        """Create the stream for the dead letters of a queue, if it does not exist.

        :raises BrokerUnavailable: it cannot be created, or is there with other settings.
        """
        if stream.queue in self._dead:
            return
        wanted = jetstream.stream_config(self._link, stream.dead_name, [f"{stream.dead}*.*"])
        async with self._making[stream.queue]:
            found = await jetstream.ensure_stream(self._link, wanted)
            jetstream.check_settings(self._link, stream.dead_name, wanted, found, CHECKED_ALWAYS)
            self._dead.add(stream.queue)

    # ── consumers ──

    async def ensure_consumer(self, stream: QueueStream, *, ack_wait: float) -> None:
        """Create the consumer that workers share, if it does not exist, with this ``ack_wait``.

        :raises BrokerUnavailable: it cannot be created, or is there with other settings.
        """
        subject = f"{stream.ready}*"
        made = await self._consumer(stream, "worker", subject, ack_wait=ack_wait, max_waiting=WAITING_PULLS)
        stream.ack_wait = made["ack_wait"] / NANO

    async def ensure_timer(self, stream: QueueStream) -> None:
        """Create the consumer that parks scheduled jobs, on servers that have no schedules."""
        await self._consumer(stream, "timer", f"{stream.scheduled}*", ack_wait=PARKED_LEASE)

    async def _consumer(self, stream: QueueStream, name: str, subject: str, **settings: Any) -> dict[str, Any]:
        config = jetstream.settings_of(
            api.ConsumerConfig(
                durable_name=name,
                filter_subject=subject,
                ack_policy=api.AckPolicy.EXPLICIT,
                max_deliver=-1,
                max_ack_pending=-1,
                **settings,
            )
        )
        place = f"{stream.name}.{name}"
        info = await self._link.api(f"CONSUMER.INFO.{place}")
        if "error" in info:
            body = {"stream_name": stream.name, "config": config, "action": "create"}
            info = await self._link.api(f"CONSUMER.DURABLE.CREATE.{place}", body, allowed=jetstream.EXISTS_ALREADY)
        if "error" in info:
            info = await self._link.api(f"CONSUMER.INFO.{place}", allowed=())
        found: dict[str, Any] = info["config"]
        checked = ("filter_subject", "ack_policy", "max_deliver", "max_ack_pending")
        jetstream.check_settings(self._link, f"{stream.name} > {name}", config, found, checked)
        return found

    async def sweep(self, stream: QueueStream) -> tuple[int, int]:
        """Delete ended jobs that a killed server brought back: no consumer hands them out, and they count for ever.

        That is how a job returns in whose place a copy was put: the server does not write down that it has gone.
        Return the number up to which all jobs have ended, and the number up to which jobs were handed out.

        :raises BrokerUnavailable: some may be left.
        """
        info = await self._link.api(f"CONSUMER.INFO.{stream.name}.worker")
        if "error" in info:
            return 0, 0
        floor, handed_out = int(info["ack_floor"]["stream_seq"]), int(info["delivered"]["stream_seq"])
        swept = 0
        while (found := await jetstream.next_message(self._link, stream.name, f"{stream.ready}*")) is not None:
            if found.number > floor or not await jetstream.delete_messages(self._link, stream.name, [found.number]):
                break
            swept += 1
        if swept:
            log.warning("deleted %d ended jobs of queue %s that a killed server brought back", swept, stream.queue)
        return floor, handed_out

    async def repair(self, stream: QueueStream, *, ack_wait: float) -> bool:
        """Create consumer and stream anew after a sign that one of them is gone; True if they were gone.

        :raises BrokerUnavailable: the server cannot tell, or refuses.
        """
        info = await self._link.api(f"CONSUMER.INFO.{stream.name}.worker")
        if "error" not in info:
            return False
        only_consumer = error_of(info) == NO_CONSUMER
        log.error(
            "the %s of queue %s was deleted while this worker used it; creating it again. %s",
            "consumer" if only_consumer else "stream",
            stream.queue,
            "Jobs that were handed out come again." if only_consumer else "Its jobs are lost.",
        )
        if not only_consumer:
            async with self._making[stream.queue]:
                stream.native = (await self._make(stream.queue)).native
        stream.generation += 1
        await self.ensure_consumer(stream, ack_wait=ack_wait)
        return True
