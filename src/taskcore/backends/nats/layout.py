"""QueueStreams: the stream and the consumers of each queue; made when first needed, checked when found.

A stream that exists with settings that break a promise is refused, never changed. What a server returns is compared
with what was asked, because old servers leave out what they do not know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from taskcore.backends.nats.messages import Names
from taskcore.connections.nats import NatsLink
from taskcore.connections.nats.answers import NO_CONSUMER, NO_STREAM, broker_time, error_of, wall_clock
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["CLOCK", "NANO", "SCHEDULES", "QueueStream", "QueueStreams"]

log = logger("taskcore.backends.nats")

NANO = 1_000_000_000
CLOCK = "~clock"  #: stands for a job where only the time is asked for
REMEMBERED = 120.0  #: seconds from its publishing for which a server remembers an id
SCHEDULES = 2  #: the level of the API from which servers have schedules
FAMILY = 1  #: the level from which a write may expect something of other subjects
PARKED_LEASE = 5.0  #: seconds for which a scheduled job is in a timer's hands
WAITING_PULLS = 10_000  #: workers that may wait at one queue
CLOCK_KEPT = 60.0  #: seconds after which we ask for the server's time again
DELETED = 1_000  #: numbers of deleted jobs that are remembered
EXISTS_ALREADY = (10058, 10148, 10105, 10013)


class QueueStream:
    """One queue on the server, as far as this process knows it.

    :param native: whether its stream has schedules; otherwise timers of ours do that.
    :param ack_wait: seconds for which a delivery is leased by its consumer, None if there is none.
    :param generation: counts how often its consumer had to be made anew; leases of before are void.
    :param deleted: numbers of jobs that a caller deleted while this process had them in hand.
    """

    __slots__ = ("ack_wait", "clock_at", "deleted", "generation", "names", "native", "offset", "replicas")

    def __init__(self, names: Names) -> None:
        self.names = names
        self.native = False
        self.ack_wait: float | None = None
        self.generation = 0
        self.replicas = 1
        self.offset = 0.0
        self.clock_at = float("-inf")
        self.deleted: deque[int] = deque(maxlen=DELETED)


class QueueStreams:
    """All queues that this process has to do with."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._streams: dict[str, QueueStream] = {}
        self._dead: set[str] = set()
        self._making = asyncio.Lock()

    def names(self, queue: str) -> Names:
        """What the things of a queue are called."""
        stream = self._streams.get(queue)
        return stream.names if stream is not None else Names(self._link.address.prefix, queue)

    def known(self, queue: str) -> QueueStream | None:
        """The queue, if this process has seen its stream."""
        return self._streams.get(queue)

    def discard(self, queue: str) -> None:
        """It is not there any more, or not as it was."""
        self._streams.pop(queue, None)
        self._dead.discard(queue)

    async def open(self, queue: str) -> QueueStream:
        """The queue, made if it is not there.

        :raises BrokerUnavailable: it cannot be made, or is there with other settings.
        """
        found = self._streams.get(queue)
        if found is None:
            async with self._making:
                found = self._streams.get(queue) or await self._make(queue)
                self._streams[queue] = found
        return found

    async def find(self, queue: str) -> tuple[QueueStream, dict[str, Any]] | None:
        """The queue and its stream's state, without making it."""
        names = self.names(queue)
        info = await self._link.api(f"STREAM.INFO.{names.stream}")
        if error_of(info):
            _raise_unless(info, NO_STREAM, f"STREAM.INFO.{names.stream}")
            self.discard(queue)
            return None
        stream = self._streams.get(queue)
        if stream is None:
            stream = self._streams[queue] = self._accept(QueueStream(names), info)
        return stream, info

    async def _make(self, queue: str) -> QueueStream:
        names = Names(self._link.address.prefix, queue)
        info = await self._link.api(f"STREAM.INFO.{names.stream}")
        if error_of(info) == NO_STREAM:
            wanted = self._stream_config(names, native=self._may_schedule)
            info = await self._link.api(f"STREAM.CREATE.{names.stream}", wanted)
            if error_of(info) in EXISTS_ALREADY:
                info = await self._link.api(f"STREAM.INFO.{names.stream}")
        _raise_unless(info, 0, f"making stream {names.stream}")
        return self._accept(QueueStream(names), info)

    @property
    def _may_schedule(self) -> bool:
        """A stream with a limit refuses what is too much, and servers cannot do that and schedule."""
        return self._link.level >= SCHEDULES and self._link.address.max_bytes is None

    def _accept(self, stream: QueueStream, info: dict[str, Any]) -> QueueStream:
        config = info["config"]
        stream.native = bool(config.get("allow_msg_schedules"))
        stream.replicas = int(config.get("num_replicas", 1))
        wanted = self._stream_config(stream.names, native=stream.native)
        address = self._link.address
        if address.replicas is None:
            del wanted["num_replicas"]
        if address.storage is None:
            del wanted["storage"]
        if address.max_bytes is None and config.get("discard") == "new":
            del wanted["max_bytes"]
        _compare(stream.names.stream, wanted, config)
        return stream

    def _stream_config(self, names: Names, *, native: bool) -> dict[str, Any]:
        address = self._link.address
        return {
            "name": names.stream,
            "subjects": [f"{names.ready}*", f"{names.scheduled}*"],
            "retention": "workqueue",
            "storage": address.storage or "file",
            "num_replicas": address.replicas or 1,
            "max_msgs_per_subject": 1,  # a copy replaces the job that it is a copy of, in one step
            "discard": "old" if native else "new",  # servers schedule in streams without limits only: nothing is old
            "max_bytes": address.max_bytes or -1,
            "max_msgs": -1,
            "max_age": 0,
            "duplicate_window": int(REMEMBERED * NANO),
        } | ({"allow_msg_schedules": True} if native else {})

    # ── dead letters ──

    async def ensure_dead(self, queue: str) -> None:
        """The stream for the dead letters of a queue.

        :raises BrokerUnavailable: it cannot be made, or is there with other settings.
        """
        if queue in self._dead:
            return
        names, address = self.names(queue), self._link.address
        wanted: dict[str, Any] = {
            "name": names.dead_stream,
            "subjects": [f"{names.dead}*.*"],
            "retention": "limits",
            "storage": address.storage or "file",
            "num_replicas": address.replicas or 1,
            "max_msgs_per_subject": -1,
            "discard": "new",
            "max_bytes": address.max_bytes or -1,
            "max_msgs": -1,
            "max_age": 0,
            "duplicate_window": int(REMEMBERED * NANO),
        }
        async with self._making:
            info = await self._link.api(f"STREAM.CREATE.{names.dead_stream}", wanted)
            if error_of(info) in EXISTS_ALREADY:
                info = await self._link.api(f"STREAM.INFO.{names.dead_stream}")
            _raise_unless(info, 0, f"making stream {names.dead_stream}")
            for free in ("num_replicas", "storage", "max_bytes", "duplicate_window"):
                del wanted[free]
            _compare(names.dead_stream, wanted, info["config"])
            self._dead.add(queue)

    # ── consumers ──

    async def ensure_consumer(self, stream: QueueStream, *, ack_wait: float) -> None:
        """The consumer that workers share, made if it is not there; ``ack_wait`` is for one that is made now.

        :raises BrokerUnavailable: it cannot be made, or is there with other settings.
        """
        config = _consumer_config("worker", f"{stream.names.ready}*", ack_wait) | {"max_waiting": WAITING_PULLS}
        made = await self._consumer(stream, config)
        stream.ack_wait = made["ack_wait"] / NANO

    async def ensure_timer(self, stream: QueueStream) -> None:
        """The consumer that parks scheduled jobs, on servers that have no schedules."""
        await self._consumer(stream, _consumer_config("timer", f"{stream.names.scheduled}*", PARKED_LEASE))

    async def _consumer(self, stream: QueueStream, config: dict[str, Any]) -> dict[str, Any]:
        owner, name = stream.names.stream, config["durable_name"]
        info = await self._link.api(f"CONSUMER.INFO.{owner}.{name}")
        if error_of(info) == NO_CONSUMER:
            body = {"stream_name": owner, "config": config, "action": "create"}
            info = await self._link.api(f"CONSUMER.DURABLE.CREATE.{owner}.{name}", body)
            if error_of(info) in EXISTS_ALREADY:
                info = await self._link.api(f"CONSUMER.INFO.{owner}.{name}")
        _raise_unless(info, 0, f"making consumer {name} of {owner}")
        found: dict[str, Any] = info["config"]
        checked = {key: config[key] for key in ("filter_subject", "ack_policy", "max_deliver", "max_ack_pending")}
        _compare(f"{owner} > {name}", checked, found)
        return found

    async def repair(self, queue: str, *, ack_wait: float) -> bool:
        """After a sign that consumer or stream are gone: look, and make them anew; True if they were gone.

        :raises BrokerUnavailable: it cannot be told, or not be done.
        """
        stream = await self.open(queue)
        info = await self._link.api(f"CONSUMER.INFO.{stream.names.stream}.worker")
        if not error_of(info):
            return False
        if error_of(info) not in {NO_CONSUMER, NO_STREAM}:
            _raise_unless(info, 0, f"looking at {stream.names.stream}")
        what = "consumer" if error_of(info) == NO_CONSUMER else "stream"
        log.error(
            "the %s of queue %s was deleted while we worked on it; it is made anew. %s",
            what,
            queue,
            "Jobs in hand are handed out again." if what == "consumer" else "Its jobs are lost.",
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
        """Seconds that the server's clock is ahead of ours; asked anew from time to time."""
        loop = asyncio.get_running_loop()
        if loop.time() - stream.clock_at > CLOCK_KEPT:
            before = wall_clock()
            info = await self._link.api(f"STREAM.INFO.{stream.names.stream}")
            after = wall_clock()
            if "ts" in info:
                stream.offset = broker_time(info["ts"]) - (before + after) / 2
            else:
                stream.offset = await self._probe(stream)
            stream.clock_at = loop.time()
        return stream.offset

    async def _probe(self, stream: QueueStream) -> float:
        """Servers before 2.10 tell the time only by the time stamp of something stored."""
        subject = f"{stream.names.scheduled}{CLOCK}".encode()
        before = wall_clock()
        [answer] = await self._link.request_all([self._link.api_request("INFO")._replace(subject=subject, body=b"")])
        after = wall_clock()
        stored = self._link.read_answer(answer)
        _raise_unless(stored, 0, "asking for the time")
        found = await self._link.api(f"STREAM.MSG.GET.{stream.names.stream}", {"seq": stored["seq"]})
        await self._link.api(f"STREAM.MSG.DELETE.{stream.names.stream}", {"seq": stored["seq"], "no_erase": True})
        return broker_time(found["message"]["time"]) - (before + after) / 2 if "message" in found else 0.0


def _consumer_config(name: str, subject: str, ack_wait: float) -> dict[str, Any]:
    return {
        "durable_name": name,
        "filter_subject": subject,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait * NANO),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "deliver_policy": "all",
        "replay_policy": "instant",
    }


def _compare(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    different = [
        f"{key}: {_show(found.get(key))}, wanted {_show(value)}"
        for key, value in wanted.items()
        if _plain(found.get(key)) != _plain(value)
    ]
    if different:
        raise BrokerUnavailable(
            f"{name} exists with other settings than ours",
            facts=different,
            fix="change it with the nats command line, or use another ?prefix= for this app; we do not change it",
        )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0


def _show(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _raise_unless(answer: Mapping[str, Any], allowed: int, what: str) -> None:
    code = error_of(answer)
    if code and code != allowed:
        error = answer["error"]
        raise BrokerUnavailable(
            f"NATS refused {what}",
            facts=[f"{error.get('description')} ({code})"],
            fix="see what its log says, and what the account may do",
        )
