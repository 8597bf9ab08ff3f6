"""QueueStreams: the stream and the consumers of each queue, created when first needed, checked when found.

    <prefix>.q.<queue>.<job>            ready or leased              stream <prefix>-q-<queue>
    <prefix>.s.<queue>.<job>            scheduled                    the same stream
    <prefix>.d.<queue>.<job>.<number>   dead letter                  stream <prefix>-d-<queue>

A stream that exists with settings that break a guarantee is refused, never changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from nats.js import api

from taskcore.backends.nats.messages import Names
from taskcore.connections.nats import Message, NatsLink
from taskcore.connections.nats.jetstream import (
    EXISTS_ALREADY,
    NO_CONSUMER,
    NO_STREAM,
    check_settings,
    clock_offset,
    ensure_stream,
    error_of,
    settings_of,
    without_error,
)
from taskcore.toolkit.logging import logger

__all__ = ["CLOCK", "FAMILY", "NANO", "PARKED_LEASE", "SCHEDULES", "QueueStream", "QueueStreams"]

log = logger("taskcore.backends.nats")

NANO: Final = 1_000_000_000
CLOCK: Final = "~clock"  #: stands for a job where only the time is asked for
DUPLICATE_WINDOW: Final = 120.0  #: seconds from its publishing for which a server remembers an id
SCHEDULES: Final = 2  #: the level of the API from which servers have schedules
FAMILY: Final = 1  #: the level from which a write may expect something of other subjects
PARKED_LEASE: Final = 5.0  #: seconds for which a scheduled job is in a timer's hands
WAITING_PULLS: Final = 10_000  #: workers that may wait at one queue
CLOCK_KEPT: Final = 60.0  #: seconds after which the server's time is asked for again
#: What is compared where a stream exists.
CHECKED: Final[tuple[str, ...]] = (
    "subjects", "retention", "storage", "num_replicas", "max_msgs_per_subject", "discard", "max_bytes", "max_msgs",
    "max_age", "duplicate_window", "allow_msg_schedules",
)  # fmt: skip
DELETED_LIMIT: Final = 1_000  #: numbers of deleted jobs that are remembered


class QueueStream:
    """One queue on the server, as far as this process knows it.

    :param native: whether its stream has schedules; otherwise timers of ours do that.
    :param ack_wait: seconds for which a delivery is leased by its consumer, None if there is none.
    :param generation: counts how often its consumer had to be created anew; leases of before are void.
    :param deleted: numbers of jobs that a caller deleted while this process had handed them out.
    """

    __slots__ = ("ack_wait", "clock_at", "deleted", "generation", "names", "native", "offset")

    def __init__(self, names: Names) -> None:
        self.names = names
        self.native = False
        self.ack_wait: float | None = None
        self.generation = 0
        self.offset = 0.0
        self.clock_at = float("-inf")
        self.deleted: deque[int] = deque(maxlen=DELETED_LIMIT)


class QueueStreams:
    """All queues that this process knows."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._streams: dict[str, QueueStream] = {}
        self._dead: set[str] = set()
        self._making = asyncio.Lock()

    def names(self, queue: str) -> Names:
        """Return the names that the parts of a queue have."""
        stream = self._streams.get(queue)
        return stream.names if stream is not None else Names(self._link.address.prefix, queue)

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
        found = self._streams.get(queue)
        if found is None:
            async with self._making:
                found = self._streams.get(queue) or await self._make(queue)
                self._streams[queue] = found
        return found

    async def find(self, queue: str) -> tuple[QueueStream, dict[str, Any]] | None:
        """Return the queue and its stream's state, without creating it."""
        names = self.names(queue)
        info = await self._link.api(f"STREAM.INFO.{names.stream}")
        if error_of(info):
            without_error(info, NO_STREAM)
            self.discard(queue)
            return None
        stream = self._streams.get(queue)
        if stream is None:
            stream = self._streams[queue] = self._accept(QueueStream(names), info["config"])
        return stream, info

    async def _make(self, queue: str) -> QueueStream:
        names = Names(self._link.address.prefix, queue)
        # A stream with a limit refuses what is too much, and servers cannot do that and schedule.
        native = self._link.level >= SCHEDULES and self._link.address.max_bytes is None
        return self._accept(
            QueueStream(names), await ensure_stream(self._link, self._stream_config(names, native=native))
        )

    def _accept(self, stream: QueueStream, found: dict[str, Any]) -> QueueStream:
        stream.native = bool(found.get("allow_msg_schedules"))
        address = self._link.address
        free = {
            "num_replicas": address.replicas is None,
            "storage": address.storage is None,
            "max_bytes": address.max_bytes is None and found.get("discard") == "new",
        }
        wanted = self._stream_config(stream.names, native=stream.native)
        checked = {key: wanted[key] for key in CHECKED if key in wanted and not free.get(key)}
        check_settings(stream.names.stream, checked, found)
        return stream

    def _stream_config(self, names: Names, *, native: bool) -> dict[str, Any]:
        return self._common_config() | {
            "name": names.stream,
            "subjects": [f"{names.ready}*", f"{names.scheduled}*"],
            "retention": api.RetentionPolicy.WORK_QUEUE.value,
            "max_msgs_per_subject": 1,  # a copy replaces the job that it is a copy of, in one step
            # Servers schedule in streams without limits only: nothing is old in them.
            "discard": (api.DiscardPolicy.OLD if native else api.DiscardPolicy.NEW).value,
            **({"allow_msg_schedules": True} if native else {}),
        }

    def _common_config(self) -> dict[str, Any]:
        address = self._link.address
        return settings_of(
            api.StreamConfig(
                storage=api.StorageType(address.storage or "file"),
                num_replicas=address.replicas or 1,
                max_bytes=address.max_bytes or -1,
                max_msgs=-1,
                max_age=0,
                duplicate_window=DUPLICATE_WINDOW,
                retention=api.RetentionPolicy.LIMITS,
                discard=api.DiscardPolicy.NEW,
            )
        )

    # ── dead letters ──

    async def ensure_dead(self, queue: str) -> None:
        """Create the stream for the dead letters of a queue, if it does not exist.

        :raises BrokerUnavailable: it cannot be created, or is there with other settings.
        """
        if queue in self._dead:
            return
        names = self.names(queue)
        wanted = self._common_config() | {"name": names.dead_stream, "subjects": [f"{names.dead}*.*"]}
        free = {"num_replicas", "storage", "max_bytes", "duplicate_window"}
        async with self._making:
            found = await ensure_stream(self._link, wanted)
            checked = {key: wanted[key] for key in CHECKED if key in wanted and key not in free}
            check_settings(names.dead_stream, checked, found)
            self._dead.add(queue)

    # ── consumers ──

    async def ensure_consumer(self, stream: QueueStream, *, ack_wait: float) -> None:
        """Create the consumer that workers share, if it does not exist, with this ``ack_wait``.

        :raises BrokerUnavailable: it cannot be created, or is there with other settings.
        """
        config = _consumer_config("worker", f"{stream.names.ready}*", ack_wait, waiting=WAITING_PULLS)
        made = await self._consumer(stream.names.stream, config)
        stream.ack_wait = made["ack_wait"] / NANO

    async def ensure_timer(self, stream: QueueStream) -> None:
        """Create the consumer that parks scheduled jobs, on servers that have no schedules."""
        config = _consumer_config("timer", f"{stream.names.scheduled}*", PARKED_LEASE)
        await self._consumer(stream.names.stream, config)

    async def _consumer(self, stream: str, config: dict[str, Any]) -> dict[str, Any]:
        name = config["durable_name"]
        info = await self._link.api(f"CONSUMER.INFO.{stream}.{name}")
        if error_of(info) == NO_CONSUMER:
            body = {"stream_name": stream, "config": config, "action": "create"}
            info = await self._link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body)
            if error_of(info) in EXISTS_ALREADY:
                info = await self._link.api(f"CONSUMER.INFO.{stream}.{name}")
        found: dict[str, Any] = without_error(info, what=f"to create consumer {name} of {stream}")["config"]
        checked = {key: config[key] for key in ("filter_subject", "ack_policy", "max_deliver", "max_ack_pending")}
        check_settings(f"{stream} > {name}", checked, found)
        return found

    async def repair(self, queue: str, *, ack_wait: float) -> bool:
        """Create consumer and stream anew after a sign that one of them is gone; True if they were gone.

        :raises BrokerUnavailable: the server cannot tell, or refuses.
        """
        stream = await self.open(queue)
        info = await self._link.api(f"CONSUMER.INFO.{stream.names.stream}.worker")
        if not error_of(info):
            return False
        without_error(info, NO_CONSUMER, NO_STREAM)
        what = "consumer" if error_of(info) == NO_CONSUMER else "stream"
        log.error(
            "the %s of queue %s was deleted while this worker used it; creating it anew. %s",
            what,
            queue,
            "Jobs that were handed out come again." if what == "consumer" else "Its jobs are lost.",
        )
        if what == "stream":
            async with self._making:
                anew = await self._make(queue)
                stream.native = anew.native
        stream.generation += 1
        await self.ensure_consumer(stream, ack_wait=ack_wait)
        return True

    # ── time ──

    async def clock(self, stream: QueueStream) -> float:
        """Return the seconds that the server's clock is ahead of ours, asked for anew from time to time."""
        loop = asyncio.get_running_loop()
        if loop.time() - stream.clock_at > CLOCK_KEPT:
            probe = Message(f"{stream.names.scheduled}{CLOCK}".encode(), b"")
            stream.offset = await clock_offset(self._link, stream.names.stream, probe)
            stream.clock_at = loop.time()
        return stream.offset


def _consumer_config(name: str, subject: str, ack_wait: float, *, waiting: int | None = None) -> dict[str, Any]:
    return settings_of(
        api.ConsumerConfig(
            durable_name=name,
            filter_subject=subject,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_deliver=-1,
            max_ack_pending=-1,
            max_waiting=waiting,
        )
    )
