"""NatsAdmin: queues, counts, purging, removing and dead letters, by JetStream's API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from taskcore.backend import Place, QueueStats
from taskcore.backends.nats.letters import NatsLetters
from taskcore.backends.nats.messages import Names, job_token, number_at, queue_of
from taskcore.connections.nats import Message, NatsLink, encode_message
from taskcore.connections.nats.jetstream import (
    NO_CONSUMER,
    NO_STREAM,
    broker_time,
    error_of,
    stored_in,
    wall_clock,
    without_error,
)

__all__ = ["NatsAdmin"]

DUE_TIME = 0.1  #: seconds in which a scheduled job that was just due has become a ready one
DELETE_BATCH = 500
HELD_TIMEOUT = 0.3  #: seconds in which a worker that has handed a job out says so
NOT_THERE = (10057, 10037)  #: what a server says when there is nothing to delete
SOON = 5.0  #: seconds: a schedule that ends so soon may be ending now


class NatsAdmin(NatsLetters):
    """Queues, counts, purging, removing, dead letters."""

    # ── looking ──

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        prefix = self._link.address.prefix
        found: set[str] = set()
        for kind in ("q", "d"):
            async for stream in self._stream_names(f"{prefix}.{kind}.>"):
                if stream.startswith(f"{prefix}-{kind}-"):
                    found.add(queue_of(stream.removeprefix(f"{prefix}-{kind}-")))
        return sorted(found)

    async def _stream_names(self, subject: str) -> AsyncIterator[str]:
        offset = 0
        while True:
            page = await self._link.api("STREAM.NAMES", {"subject": subject, "offset": offset})
            without_error(page)
            names = page.get("streams") or []
            for name in names:
                yield name
            offset += len(names)
            if not names or offset >= page.get("total", 0):
                return

    async def stats(self, queue: str) -> QueueStats:
        """Count the jobs of the queue."""
        names = self._streams.names(queue)
        requests = [
            self._link.api_request(f"STREAM.INFO.{names.stream}"),
            self._link.api_request(f"CONSUMER.INFO.{names.stream}.worker"),
            self._link.api_request(f"STREAM.INFO.{names.dead_stream}"),
        ]
        before = wall_clock()
        stream, consumer, dead = [
            self._link.read_answer(answer, "INFO") for answer in await self._link.request_all(requests)
        ]
        for answer in (stream, dead):
            without_error(answer, NO_STREAM)
        without_error(consumer, NO_STREAM, NO_CONSUMER)
        buried = 0 if error_of(dead) else int(dead["state"]["messages"])
        if error_of(stream):
            return QueueStats(ready=0, leased=0, scheduled=0, dead=buried)
        total = int(stream["state"]["messages"])
        if error_of(consumer):  # no worker ever took jobs: count by subject
            ready = await self._count(names.stream, f"{names.ready}*")
            leased, first = 0, 0
        else:
            ready, leased = int(consumer["num_pending"]), int(consumer["num_ack_pending"])
            first = int(consumer["delivered"]["stream_seq"])
        oldest = None
        if ready:
            now = broker_time(stream["ts"]) if "ts" in stream else before
            oldest = await self._age(names, first + 1, now)
        scheduled = max(total - ready - leased, 0)
        return QueueStats(ready=ready, leased=leased, scheduled=scheduled, dead=buried, oldest=oldest)

    async def _count(self, stream: str, subject: str) -> int:
        found, offset = 0, 0
        while True:
            body = {"subjects_filter": subject, "offset": offset}
            info = await self._link.api(f"STREAM.INFO.{stream}", body)
            without_error(info)
            subjects = info["state"].get("subjects") or {}
            found += sum(int(number) for number in subjects.values())
            offset += len(subjects)
            if not subjects or offset >= info.get("total", 0):
                return found

    async def _age(self, names: Names, first: int, now: float) -> float | None:
        body = {"seq": first, "next_by_subj": f"{names.ready}*"}
        found = await self._link.api(f"STREAM.MSG.GET.{names.stream}", body)
        stored = stored_in(found)
        return None if stored is None else max(now - broker_time(stored["time"]), 0.0)

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Say where the job is; a lease that ran out counts as one until the job is handed out again."""
        names, token = self._streams.names(queue), job_token(job_id)
        requests = [
            self._link.api_request(f"STREAM.MSG.GET.{names.stream}", {"last_by_subj": f"{names.either}{token}"}),
            self._link.api_request(f"CONSUMER.INFO.{names.stream}.worker"),
        ]
        found, consumer = [
            self._link.read_answer(answer, "locate") for answer in await self._link.request_all(requests)
        ]
        stored = stored_in(found)
        if stored is None:
            return None
        if stored["subject"].startswith(names.scheduled):
            return "scheduled"
        return "leased" if _was_handed_out(int(stored["seq"]), consumer) else "ready"

    # ── taking away ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Take one ready or scheduled job back; True if it was there and will never be handed out."""
        names, token = self._streams.names(queue), job_token(job_id)
        removed = False
        while True:
            found = await self._link.api(f"STREAM.MSG.GET.{names.stream}", {"last_by_subj": f"{names.either}{token}"})
            stored = stored_in(found)
            if stored is None:
                return removed
            taken = await self._remove(names, stored)
            if taken is False:
                return False
            removed = removed or taken is True

    async def _remove(self, names: Names, found: Mapping[str, Any]) -> bool | None:
        """Delete this one: True if it is gone for good, False if a worker holds it, None if it moved meanwhile.

        JetStream deletes a job, but does not say whether it was handed out a moment before. So all workers of the queue
        hear the number of one that may have been, and the worker that holds it says so.
        """
        number, scheduled = int(found["seq"]), found["subject"].startswith(names.scheduled)
        if not scheduled and _was_handed_out(number, await self._worker(names)):
            return False
        if scheduled and (copied := number_at(base64.b64decode(found.get("hdrs") or ""), b"Tc-Copy")):
            # Its worker is about to end the job that this retry is a copy of; its death must not bring that back.
            body = {"seq": copied, "no_erase": True}
            without_error(await self._link.api(f"STREAM.MSG.DELETE.{names.stream}", body), NO_STREAM, *NOT_THERE)
        body = {"seq": number, "no_erase": True}
        deleted = await self._link.api(f"STREAM.MSG.DELETE.{names.stream}", body)
        if not deleted.get("success"):
            without_error(deleted, NO_STREAM, *NOT_THERE)
            await asyncio.sleep(0.01)
            return None
        if not scheduled:
            if not _was_handed_out(number, await self._worker(names)):
                return True
            return not await is_held(self._link, names.withdrawn, number)
        stream = self._streams.known(names.queue)
        if stream is None or not stream.native:
            await is_held(self._link, names.withdrawn, number)  # a timer may be moving it
        else:
            await asyncio.sleep(DUE_TIME if _is_due_soon(found) else 0)
        return True

    async def _worker(self, names: Names) -> dict[str, Any]:
        answer = await self._link.api(f"CONSUMER.INFO.{names.stream}.worker")
        without_error(answer, NO_STREAM, NO_CONSUMER)
        return answer

    async def purge(self, queue: str) -> int:
        """Delete all ready and scheduled jobs of the queue; return how many."""
        found = await self._streams.find(queue)
        if found is None:
            return 0
        stream, info = found
        names = stream.names
        purged = await self._purge(names.stream, f"{names.scheduled}*")
        consumer = await self._worker(names)
        if error_of(consumer) or not consumer["num_ack_pending"] + consumer["num_waiting"]:
            return purged + await self._purge(names.stream, f"{names.ready}*")
        first, last = int(consumer["delivered"]["stream_seq"]), int(info["state"]["last_seq"])
        if consumer["num_pending"]:
            purged += await self._delete_between(names, first, last)
        return purged

    async def _purge(self, stream: str, subject: str) -> int:
        return int((await self._link.api(f"STREAM.PURGE.{stream}", {"filter": subject})).get("purged", 0))

    async def _delete_between(self, names: Names, first: int, last: int) -> int:
        """Delete the jobs that were not handed out, the youngest first, because workers take the oldest."""
        gone = 0
        for end in range(last, first, -DELETE_BATCH):
            numbers = range(end, max(first, end - DELETE_BATCH), -1)
            requests = [
                self._link.api_request(f"STREAM.MSG.DELETE.{names.stream}", {"seq": number, "no_erase": True})
                for number in numbers
            ]
            answers = await self._link.request_all(requests)
            gone += sum(b'"success":true' in answer.body.replace(b" ", b"") for answer in answers if answer)
        return gone

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""
        names = self._streams.names(queue)
        self._streams.discard(queue)
        requests = [self._link.api_request(f"STREAM.DELETE.{stream}") for stream in (names.stream, names.dead_stream)]
        for answer in await self._link.request_all(requests):
            self._link.read_answer(answer, "STREAM.DELETE")


async def is_held(link: NatsLink, subject: str, number: int) -> bool:
    """Tell all workers that this job was deleted; True if one of them has handed it out."""
    held = asyncio.Event()
    inbox = link.new_inbox()

    def take(_: bytes, __: bytes, body: bytes, ___: bytes) -> None:
        if body == b"held":
            held.set()

    subscription = link.subscribe(inbox, take)
    try:
        await link.send(encode_message(Message(subject.encode(), b"%d" % number), inbox))
        try:
            async with asyncio.timeout(HELD_TIMEOUT):
                await held.wait()
        except TimeoutError:
            return False
        return True
    finally:
        link.discard(subscription)


def _was_handed_out(number: int, consumer: Mapping[str, Any]) -> bool:
    return not error_of(consumer) and number <= int(consumer["delivered"]["stream_seq"])


def _is_due_soon(found: Mapping[str, Any]) -> bool:
    headers = base64.b64decode(found.get("hdrs") or "")
    start = headers.find(b"Nats-Schedule: @at ")
    if start < 0:
        return True
    moment = headers[start + 19 : headers.find(b"\r\n", start)].decode("ascii", "replace")
    return broker_time(moment) - wall_clock() < SOON
