"""NatsAdmin: queues, counts, purging, removing and dead letters, by JetStream's API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from taskcore.backend import Place, QueueStats
from taskcore.backends.nats.delays import delay_of
from taskcore.backends.nats.layout import QueueStream
from taskcore.backends.nats.letters import NatsLetters
from taskcore.backends.nats.messages import job_token, queue_of, unpack
from taskcore.connections.nats import Message, NatsLink, encode_message, header_of, jetstream, number_of
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.capabilities import WaitingJob

__all__ = ["NatsAdmin"]

COUNTED_AT_ONCE = 50  #: queues that are counted at a time
ALL_SUBJECTS = 1 << 40  #: of the subjects of a stream, more than there can be
DUE_TIME = 0.1  #: seconds in which a scheduled job that was just due has become a ready one
DELETE_BATCH = 500
MOVED_TIMEOUT = 0.3  #: seconds in which a worker whose timer has just moved a job says so
HELD_TIMEOUT = 3.0  #: seconds in which a worker answers for a job that it surely was sent: its machine may be busy
ENDING_SOON = 5.0  #: seconds: a schedule that ends so soon may be ending now


class NatsAdmin(NatsLetters):
    """Queues, counts, purging, removing, dead letters."""

    # ── looking ──

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        prefix, found = self._link.address.prefix, set[str]()
        for kind in ("q", "d"):
            start = f"{prefix}-{kind}-"
            async for page in self._link.pages("STREAM.NAMES", {"subject": f"{prefix}.{kind}.>"}):
                names: list[str] = page.get("streams") or []
                found |= {queue_of(name.removeprefix(start)) for name in names if name.startswith(start)}
        return sorted(found)

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Count the jobs of each queue."""
        return await gather_limited(self._stats, queues, limit=COUNTED_AT_ONCE)

    async def _stats(self, queue: str) -> QueueStats:
        names = self._streams.named(queue)
        before = jetstream.wall_clock()
        stream, consumer, dead = await self._link.api_all(
            [
                (f"STREAM.INFO.{names.name}", None),
                (f"CONSUMER.INFO.{names.name}.worker", None),
                (f"STREAM.INFO.{names.dead_name}", None),
            ]
        )
        buried = 0 if "error" in dead else int(dead["state"]["messages"])
        if "error" in stream:
            return QueueStats(ready=0, leased=0, scheduled=0, dead=buried)
        total = int(stream["state"]["messages"])
        if "error" in consumer:  # no worker ever took jobs
            ready, leased, first = max(total - await self._scheduled(names), 0), 0, 0
        else:
            ready, leased = int(consumer["num_pending"]), int(consumer["num_ack_pending"])
            first = int(consumer["delivered"]["stream_seq"])
        age = None
        if ready:
            oldest = await jetstream.find_message(self._link, names.name, seq=first + 1, next_by_subj=f"{names.ready}*")
            now = jetstream.broker_time(stream["ts"]) if "ts" in stream else before
            age = None if oldest is None else max(now - oldest.time, 0.0)
        scheduled = max(total - ready - leased, 0)
        return QueueStats(ready=ready, leased=leased, scheduled=scheduled, dead=buried, oldest=age)

    async def _scheduled(self, names: QueueStream) -> int:
        """Count scheduled jobs by their subjects: of a page beyond the last one the server tells the total alone."""
        beyond = {"subjects_filter": f"{names.scheduled}*", "offset": ALL_SUBJECTS}
        return int((await self._link.api(f"STREAM.INFO.{names.name}", beyond)).get("total", 0))

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next; of scheduled ones those that were sent first."""
        names, start = self._streams.named(queue), 1
        subjects = f"{names.ready if place == 'ready' else names.scheduled}*"
        if place == "ready" and "error" not in (consumer := await self._worker(names)):
            start = int(consumer["delivered"]["stream_seq"]) + 1
        found = await jetstream.messages_from(self._link, names.name, subjects, start=start, limit=limit)
        now = jetstream.wall_clock()
        jobs: list[WaitingJob] = []
        for one in found:
            packed, due = unpack(one.body, one.headers), None if place == "ready" else max(_due_of(one) - now, 0.0)
            jobs.append(WaitingJob(envelope=packed.envelope, trail=packed.trail, due=due))
        return jobs

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Say where the job is; a lease that ran out counts as one until the job is handed out again."""
        names = self._streams.named(queue)
        message, consumer = await self._link.api_all(
            [
                jetstream.message_call(names.name, last_by_subj=f"{names.either}{job_token(job_id)}"),
                (f"CONSUMER.INFO.{names.name}.worker", None),
            ]
        )
        found = jetstream.stored_in(message)
        if found is None:
            return None
        if found.subject.startswith(names.scheduled):
            return "scheduled"
        return "leased" if _was_handed_out(found.number, consumer) else "ready"

    # ── taking away ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Take one ready or scheduled job back; True if it was there and will never be handed out."""
        names, removed = self._streams.named(queue), False
        subject = f"{names.either}{job_token(job_id)}"
        while (found := await jetstream.find_message(self._link, names.name, last_by_subj=subject)) is not None:
            taken = await self._remove(names, found)
            if taken is False:
                return False
            removed = removed or taken is True
        return removed

    async def _remove(self, names: QueueStream, found: jetstream.StoredMessage) -> bool | None:
        """Delete this one: True if it is gone for good, False if a worker holds it, None if it moved meanwhile.

        JetStream deletes a job, but does not say whether it was handed out a moment before. So all workers of the queue
        hear the number of one that may have been, and the worker that holds it says so.
        """
        scheduled = found.subject.startswith(names.scheduled)
        if not scheduled and _was_handed_out(found.number, await self._worker(names)):
            return False
        if scheduled and (copied := number_of(found.headers, b"Tc-Copy")):
            # Its worker is about to end the job that this retry is a copy of; its death must not bring that back.
            await jetstream.delete_messages(self._link, names.name, [copied])
        if not await jetstream.delete_messages(self._link, names.name, [found.number]):
            await asyncio.sleep(0.01)
            return None
        if not scheduled:
            if not _was_handed_out(found.number, await self._worker(names)):
                return True
            return not await is_held(self._link, names.withdrawn, found.number, timeout=HELD_TIMEOUT)
        if names.native:
            await asyncio.sleep(DUE_TIME if _is_due_soon(found) else 0)
        else:
            await is_held(self._link, names.withdrawn, found.number, timeout=MOVED_TIMEOUT)  # a timer may be moving it
        return True

    async def _worker(self, names: QueueStream) -> dict[str, Any]:
        return await self._link.api(f"CONSUMER.INFO.{names.name}.worker")

    async def purge(self, queue: str) -> int:
        """Delete all ready and scheduled jobs of the queue; return how many."""
        found = await self._streams.find(queue)
        if found is None:
            return 0
        stream, info = found
        purged = await self._purge(stream, stream.scheduled)
        consumer = await self._worker(stream)
        if "error" in consumer or not consumer["num_ack_pending"] + consumer["num_waiting"]:
            return purged + await self._purge(stream, stream.ready)
        if consumer["num_pending"]:
            # those that were not handed out, the youngest first, because workers take the oldest
            first, last = int(consumer["delivered"]["stream_seq"]), int(info["state"]["last_seq"])
            for start in range(last, first, -DELETE_BATCH):
                numbers = range(start, max(first, start - DELETE_BATCH), -1)
                purged += await jetstream.delete_messages(self._link, stream.name, numbers)
        return purged

    async def _purge(self, stream: QueueStream, subjects: str) -> int:
        return int((await self._link.api(f"STREAM.PURGE.{stream.name}", {"filter": f"{subjects}*"})).get("purged", 0))

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""
        names = self._streams.named(queue)
        self._streams.discard(queue)
        await self._link.api_all([(f"STREAM.DELETE.{name}", None) for name in (names.name, names.dead_name)])


async def is_held(link: NatsLink, subject: str, number: int, *, timeout: float) -> bool:
    """Tell all workers that this job was deleted; True if one of them has handed it out.

    :param timeout: seconds after which it counts as not handed out: the worker that it was sent to is dead.
    """
    held: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    inbox = link.new_inbox()

    def take(_: bytes, __: bytes, body: bytes, ___: bytes) -> None:
        if body in {b"held", b"forgotten"} and not held.done():
            held.set_result(body == b"held")

    subscription = link.subscribe(inbox, take)
    try:
        (await link.ready()).write(encode_message(Message(subject.encode(), b"%d" % number), inbox))
        await asyncio.wait([held], timeout=timeout)
        return held.done() and held.result()
    finally:
        link.discard(subscription)


def _was_handed_out(number: int, consumer: Mapping[str, Any]) -> bool:
    return "error" not in consumer and number <= int(consumer["delivered"]["stream_seq"])


def _is_due_soon(found: jetstream.StoredMessage) -> bool:
    return _due_of(found) - jetstream.wall_clock() < ENDING_SOON


def _due_of(found: jetstream.StoredMessage) -> float:
    """Return when a scheduled job is due, in seconds since the epoch; 0 if another program made its schedule."""
    moment = header_of(found.headers, b"Nats-Schedule").removeprefix(b"@at ").decode("ascii", "replace")
    try:
        return jetstream.broker_time(moment) if moment else found.time + delay_of(found.headers)
    except (ValueError, OverflowError):
        return 0.0
