"""Sending: a checked call becomes an envelope, joins the current batch, and ends as a job or an error.

Every enqueue ends in exactly one of: a Job · a raised refusal (surely not stored) · EnqueueUncertain (may or may not be
stored; repeating with the same id or key gives one outcome). A known key ends in the first job's handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec

from taskcore.backend import DUPLICATE, Duplicate, Outgoing, Published, Refused, Stored, Uncertain
from taskcore.client.id_owners import IdOwners
from taskcore.client.keyed import KeyedSender, SendError
from taskcore.components import Components
from taskcore.envelope import FORMAT, Envelope, new_id, running
from taskcore.errors import BrokerUnavailable, EnqueueRefused, EnqueueUncertain, PayloadTooLarge, StoreRequired
from taskcore.observe import EventName
from taskcore.task import Call, Job
from taskcore.toolkit.app_loop import AppLoop
from taskcore.toolkit.batching import GroupCommit, gather_limited
from taskcore.toolkit.capabilities import OpensQueues
from taskcore.toolkit.timeouts import SharedTimeout

__all__ = ["Client"]

R = TypeVar("R")

EVENT_OF: Final[Mapping[type[Published], EventName]] = {
    Stored: "job.enqueued",
    Duplicate: "job.duplicate",
    Refused: "job.refused",
    Uncertain: "job.uncertain",
}

PUBLISH_BATCH = 500  #: jobs in one publish; a broker that runs a batch as one script is busy for about a millisecond
PUBLISHES_IN_FLIGHT = 2  #: publishes of one enqueue_many that are under way at a time

_own_id = attrgetter("options.id")


class Client:
    """Sends calls.

    :param timeout: seconds after which a publish without an answer counts as uncertain (C22).
    :param payload_limit: bytes that the arguments of one job may have.
    :param source: the sender's name, written into the envelopes.
    """

    def __init__(
        self, components: Components, *, timeout: float, payload_limit: int, source: str | None, app_loop: AppLoop
    ) -> None:
        self._backend, store, self._events, self._clock, codec, *_ = components
        self._encode = codec.encode
        self._timeout = timeout
        self._shared_timeout = SharedTimeout(timeout)
        self._payload_limit = payload_limit
        self._source = source
        self._app_loop, self._loop, self._running = app_loop, app_loop.loop, app_loop.running
        self._batches = GroupCommit(self._publish, limit=PUBLISH_BATCH, in_place=True)
        self._owners = IdOwners(store, timeout=timeout) if store is not None else None
        self._keyed: KeyedSender | None = None
        if store is not None:
            self._keyed = KeyedSender(
                components, store, prepare=self._prepare, publish=self._publish, to_job=self._to_job
            )

    # ── sending ──

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call; concurrent ones share a batch."""
        if self._running() is not self._loop:
            return await self._app_loop.run(lambda: self.send(call))
        if len(call.payload) > self._payload_limit:
            raise self._too_large(call)
        job_id = call.options.id
        if job_id is None:
            job_id = new_id()
        elif self._owners is not None:
            await self._owners.claim([call])
        outgoing = self._prepare(call, job_id)
        if call.key is not None:
            [answer] = await self._sender_with_keys(call).send([(call, outgoing)])
        else:
            published = await self._batches.submit(outgoing)
            answer = self._to_job(call, outgoing, published)
            if published is DUPLICATE and self._owners is not None:
                answer = await self._owners.find_other_task(call) or answer
        if isinstance(answer, Job):
            return answer
        raise answer

    async def send_many(self, calls: Sequence[Call[R]]) -> list[Job[R]]:
        """Send calls in as few batches as possible; one job for each, in order.

        :raises EnqueueRefused, EnqueueUncertain, KeyConflict, WrongTask, BrokerUnavailable: some calls were not sent;
            ``jobs`` of the error holds a Job or None for each call.
        """
        if self._running() is not self._loop:
            return await self._app_loop.run(lambda: self.send_many(calls))
        for call in calls:  # all of them before the first is sent
            if len(call.payload) > self._payload_limit:
                raise self._too_large(call)
        if self._owners is not None and any(map(_own_id, calls)):
            await self._owners.claim(calls)
        chunks = [calls[start : start + PUBLISH_BATCH] for start in range(0, len(calls), PUBLISH_BATCH)]
        answers = await self._send_chunks(chunks)
        jobs = [answer if isinstance(answer, Job) else None for answer in answers]
        errors = [answer for answer in answers if not isinstance(answer, Job)]
        if errors:
            fact = f"{len(errors)} of {len(answers)} calls were not sent; `jobs` of this error has the others"
            error = errors[0].with_facts(fact)
            error.jobs = jobs
            raise error
        return [job for job in jobs if job is not None]

    def open_queues(self, queues: Sequence[str]) -> None:
        """Begin to open queues, so that the first jobs of new ones need not wait; they get more time, if they must."""
        if isinstance(self._backend, OpensQueues):
            self._backend.open_queues(queues, self._shared_timeout.extend)

    async def wait_closed(self) -> None:
        """Wait for the publishes whose callers were cancelled."""
        await self._batches.wait_closed()

    async def _send_chunks(self, chunks: Sequence[Sequence[Call[Any]]]) -> list[Job[Any] | SendError]:
        """Send two chunks at a time: while the broker works on one, the next is encoded.

        When the broker cannot be reached, later chunks are not tried: they get the same error.
        """
        down: BrokerUnavailable | None = None

        async def send(chunk: Sequence[Call[Any]]) -> list[Job[Any] | SendError]:
            nonlocal down
            if down is not None:
                return [down] * len(chunk)
            answers = await self._send_chunk(chunk)
            if isinstance(answers[0], BrokerUnavailable):
                down = answers[0]
            return answers

        answers = await gather_limited(send, chunks, limit=PUBLISHES_IN_FLIGHT)
        return [answer for some in answers for answer in some]

    async def _send_chunk(self, calls: Sequence[Call[Any]]) -> list[Job[Any] | SendError]:
        prepared = [(call, self._prepare(call, call.options.id or new_id())) for call in calls]
        try:
            return await self._send_mixed(prepared)
        except BrokerUnavailable as error:
            return [error] * len(calls)

    async def _send_mixed(self, batch: list[tuple[Call[Any], Outgoing]]) -> list[Job[Any] | SendError]:
        if not any(call.key is not None for call, _ in batch):
            published = await self._publish([outgoing for _, outgoing in batch])
            owners = self._owners
            return [
                (await owners.find_other_task(call) if owners is not None and answer is DUPLICATE else None)
                or self._to_job(call, out, answer)
                for (call, out), answer in zip(batch, published, strict=True)
            ]
        keyed = [index for index, (call, _) in enumerate(batch) if call.key is not None]
        plain = [index for index, (call, _) in enumerate(batch) if call.key is None]
        with_keys = self._sender_with_keys(batch[keyed[0]][0])
        answers: dict[int, Job[Any] | SendError] = {}
        if plain:
            answers.update(zip(plain, await self._send_mixed([batch[index] for index in plain]), strict=True))
        try:
            answers.update(zip(keyed, await with_keys.send([batch[index] for index in keyed]), strict=True))
        except BrokerUnavailable as error:  # of these none is sent; the plain ones have their answers
            answers.update(dict.fromkeys(keyed, error))
        return [answers[index] for index in range(len(batch))]

    def _sender_with_keys(self, call: Call[Any]) -> KeyedSender:
        if self._keyed is None:
            raise StoreRequired(f"{call.task.name} was called with a key, but this app has no store")
        return self._keyed

    def _prepare(self, call: Call[Any], job_id: str) -> Outgoing:
        task, options = call.task, call.options
        queue = options.queue or task.options.queue
        now = self._clock()
        expires = options.expires if options.expires is not None else task.options.expires
        correlation_id, headers, parent = options.correlation_id, options.headers, running.get(None)
        if parent is not None:
            sender = parent.envelope
            correlation_id = correlation_id or sender.correlation_id or sender.id
            headers = {**sender.headers, **headers} if sender.headers else headers
        envelope = Envelope(
            v=FORMAT,
            id=job_id,
            task=task.name,
            version=task.contract.version,
            queue=queue,
            args=msgspec.Raw(call.payload),
            enqueued_at=now,
            key=call.key,
            deadline=None if expires is None else now + expires,
            correlation_id=correlation_id,
            source=self._source,
            headers=headers,  # type: ignore[arg-type]  # a dict that using() copied
            parent_id=None if parent is None else parent.envelope.id,
            timeout=options.timeout,
            retry=options.retry,
        )
        if options.rare is not None:
            envelope = msgspec.structs.replace(envelope, **options.rare)
        return Outgoing(queue, job_id, self._encode(envelope), b"", options.delay)

    def _too_large(self, call: Call[Any]) -> PayloadTooLarge:
        name, size = call.task.contract.largest(call.payload)
        return PayloadTooLarge(
            f"the arguments of {call.task.name} have {len(call.payload):,} bytes; nothing was sent",
            facts=[f"the limit is {self._payload_limit:,} bytes", f"the largest argument: {name}, {size:,} bytes"],
            fix="store large data elsewhere and send a reference, or raise payload_limit (the broker has a limit too)",
        )

    async def _publish(self, batch: list[Outgoing]) -> Sequence[Published]:
        """Publish a batch, within the time limit; each message gets an answer."""
        with self._shared_timeout.scope():
            return await self._backend.publish(batch)
        return [Uncertain(f"connected, but no answer for {self._timeout:g} s")] * len(batch)

    def _to_job(self, call: Call[R], outgoing: Outgoing, answer: Published) -> Job[R] | SendError:
        name = EVENT_OF[type(answer)]
        self._events.counters[name] += 1
        if self._events.listeners:
            self._events.tell(name, {"job_id": outgoing.id, "task": call.task.name, "queue": outgoing.queue})
        if isinstance(answer, Stored | Duplicate):
            return Job(outgoing.id, call.task, outgoing.queue, call.key)
        if isinstance(answer, Refused):
            return EnqueueRefused(
                f"{call.task.name} was not enqueued: {answer.why}",
                fix=answer.fix
                or "nothing was stored; try again when there is room. "
                "Dead letters may count, too: drop or replay some, app.dead_letters",
            )
        return EnqueueUncertain(
            f"{call.task.name} may or may not be enqueued: {answer.why}",
            facts=[f"job id {outgoing.id}"],
            fix=self._how_to_repeat(call, outgoing),
            job_ids=[outgoing.id],
        )

    def _how_to_repeat(self, call: Call[Any], outgoing: Outgoing) -> str:
        if call.key is not None:
            return "repeat it: with its key, both calls are one job"
        if self._backend.features.dedup != "absent":
            return f'repeat it with .using(id="{outgoing.id}"), or give the task a key'
        outcome = "with one outcome" if self._keyed is not None else "because there is no store"
        return (
            f'repeat it with .using(id="{outgoing.id}"): this broker does not deduplicate, the job may run twice, '
            f"{outcome}; with a key it runs once"
        )
