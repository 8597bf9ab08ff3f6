"""Sending: a checked call becomes an envelope, joins the current batch, and ends as a job or an error.

Every enqueue ends in exactly one of: a Job · a raised refusal (surely not stored) · EnqueueUncertain (may or may not be
stored; repeating with the same id or key gives one outcome). A known key ends in the first job's handle.

A call with a key takes three steps, each of which may be repeated after a crash anywhere in between:

    claim the key (compare-and-set)  →  publish under the claim's job id  →  mark the claim as confirmed
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import msgspec

from taskcore.backend import DUPLICATE, Backend, Duplicate, Outgoing, Published, Refused, Stored, Uncertain
from taskcore.envelope import FORMAT, Envelope, encode_envelope, new_id
from taskcore.errors import (
    BrokerUnavailable,
    EnqueueRefused,
    EnqueueUncertain,
    KeyConflict,
    PayloadTooLarge,
    StoreRequired,
)
from taskcore.observe import EventName, Events
from taskcore.records.keys import IdempotencyKeys, KeyRecord, decode_key_record, fingerprint
from taskcore.records.names import key_name
from taskcore.records.outcomes import Outcomes
from taskcore.results import decode_outcome
from taskcore.store import Conflict, Store, Version, Write
from taskcore.task import Call, Job
from taskcore.toolkit.batching import GroupCommit, gather_limited
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.timeouts import SharedTimeout

__all__ = ["Client", "store_required"]

R = TypeVar("R")

#: Why a call was not sent, or may not have been.
SendError: TypeAlias = EnqueueRefused | EnqueueUncertain | KeyConflict | BrokerUnavailable

EVENT_OF: Final[Mapping[type[Published], EventName]] = {
    Stored: "job.enqueued",
    Duplicate: "job.duplicate",
    Refused: "job.refused",
    Uncertain: "job.uncertain",
}

SENDER_TIMEOUT, SENDER_POLL = 5.0, 0.05  #: seconds that the sender of a key has to confirm it; and between two looks
PUBLISH_BATCH = 500  #: jobs in one publish; a broker that runs a batch as one script is busy for about a millisecond
PUBLISHES_IN_FLIGHT = 2  #: publishes of one enqueue_many that are under way at a time


class Client:
    """Sends calls.

    :param clock: seconds since the epoch.
    :param timeout: seconds after which a publish without an answer counts as uncertain (C22).
    :param payload_limit: bytes that the arguments of one job may have.
    :param source: who sends, written into the envelopes.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store | None,
        events: Events,
        *,
        clock: Callable[[], float],
        timeout: float,
        payload_limit: int,
        source: str | None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._events = events
        self._clock = clock
        self._timeout = timeout
        self._limit = SharedTimeout(timeout)
        self._payload_limit = payload_limit
        self._source = source
        self._batches = GroupCommit(self._publish, limit=PUBLISH_BATCH, in_place=True)

    # ── sending ──

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call; concurrent ones share a batch."""
        self._check_size(call)
        outgoing = self._prepare(call, call.options.id or new_id())
        if call.key is not None:
            [answer] = await self._send_keyed([(call, outgoing)])
        else:
            answer = self._to_job(call, outgoing, await self._batches.submit(outgoing))
        if isinstance(answer, Job):
            return answer
        raise answer

    async def send_many(self, calls: Sequence[Call[R]]) -> list[Job[R]]:
        """Send calls in as few batches as possible; one job for each, in order.

        :raises EnqueueRefused, EnqueueUncertain, KeyConflict, BrokerUnavailable: some calls were not sent; ``jobs`` of
            the error holds a Job or None for each call.
        """
        for call in calls:  # all of them before the first is sent
            self._check_size(call)
        portions = [calls[start : start + PUBLISH_BATCH] for start in range(0, len(calls), PUBLISH_BATCH)]
        answers = await self._send_chunks(portions)
        jobs = [answer if isinstance(answer, Job) else None for answer in answers]
        problems = [answer for answer in answers if not isinstance(answer, Job)]
        if problems:
            problem = problems[0]
            fact = f"{len(problems)} of {len(answers)} calls were not sent; `jobs` of this error has the others"
            problem.facts = (*problem.facts, fact)
            problem.jobs = jobs
            raise problem
        return [job for job in jobs if job is not None]

    async def wait_closed(self) -> None:
        """Wait for what is still being sent although nobody waits for it any more."""
        await self._batches.wait_closed()

    async def _send_chunks(self, portions: Sequence[Sequence[Call[Any]]]) -> list[Job[Any] | SendError]:
        """Two at a time: while the broker works on one, the next is encoded.

        When one could not be sent at all, those behind it are not tried: they get its error.
        """
        down: BrokerUnavailable | None = None

        async def send(portion: Sequence[Call[Any]]) -> list[Job[Any] | SendError]:
            nonlocal down
            if down is not None:
                return [down] * len(portion)
            answers = await self._send_chunk(portion)
            if isinstance(answers[0], BrokerUnavailable):
                down = answers[0]
            return answers

        return [
            answer for answers in await gather_limited(send, portions, limit=PUBLISHES_IN_FLIGHT) for answer in answers
        ]

    async def _send_chunk(self, calls: Sequence[Call[Any]]) -> list[Job[Any] | SendError]:
        prepared = [(call, self._prepare(call, call.options.id or new_id())) for call in calls]
        try:
            return await self._send_mixed(prepared)
        except BrokerUnavailable as error:
            return [error] * len(calls)

    async def _send_mixed(self, batch: list[tuple[Call[Any], Outgoing]]) -> list[Job[Any] | SendError]:
        if not any(call.key is not None for call, _ in batch):
            published = await self._publish([outgoing for _, outgoing in batch])
            return [self._to_job(call, out, answer) for (call, out), answer in zip(batch, published, strict=True)]
        keyed = [index for index, (call, _) in enumerate(batch) if call.key is not None]
        plain = [index for index, (call, _) in enumerate(batch) if call.key is None]
        answers: dict[int, Job[Any] | SendError] = {}
        if plain:
            answers.update(zip(plain, await self._send_mixed([batch[index] for index in plain]), strict=True))
        answers.update(zip(keyed, await self._send_keyed([batch[index] for index in keyed]), strict=True))
        return [answers[index] for index in range(len(batch))]

    def _prepare(self, call: Call[Any], job_id: str) -> Outgoing:
        task, sending = call.task, call.options
        queue = sending.queue or task.options.queue
        now = self._clock()
        envelope = Envelope(
            v=FORMAT,
            id=job_id,
            task=task.name,
            version=task.contract.version,
            queue=queue,
            args=msgspec.Raw(call.payload),
            enqueued_at=now,
            key=call.key,
            deadline=None if sending.expires is None else now + sending.expires,
            correlation_id=sending.correlation_id,
            source=self._source,
            headers=sending.headers,  # type: ignore[arg-type]  # a dict that using() copied
        )
        return Outgoing(queue, job_id, encode_envelope(envelope), b"", sending.delay)

    def _check_size(self, call: Call[Any]) -> None:
        if len(call.payload) <= self._payload_limit:
            return
        name, size = call.task.contract.largest(call.payload)
        raise PayloadTooLarge(
            f"the arguments of {call.task.name} have {len(call.payload):,} bytes; nothing was sent",
            facts=[f"the limit is {self._payload_limit:,} bytes", f"the largest: {name} with {size:,} bytes"],
            fix="store large data elsewhere and send its address, or raise payload_limit (the broker has a limit too)",
        )

    async def _publish(self, batch: list[Outgoing]) -> Sequence[Published]:
        """Store a batch; never longer than the time limit, never an answer missing."""
        with self._limit.scope():
            return await self._backend.publish(batch)
        return [Uncertain(f"the broker did not answer within {self._timeout:g} s")] * len(batch)

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
                fix="nothing was stored; try again when there is room",
            )
        error = EnqueueUncertain(
            f"{call.task.name} may or may not be enqueued: {answer.why}",
            facts=[f"job id {outgoing.id}"],
            fix=self._how_to_repeat(call, outgoing),
        )
        error.job_ids = [outgoing.id]
        return error

    def _how_to_repeat(self, call: Call[Any], outgoing: Outgoing) -> str:
        if call.key is not None:
            return "repeat it safely: its key keeps it from being two jobs with two outcomes"
        if self._backend.features.dedup != "absent":
            return f'repeat it safely: .using(id="{outgoing.id}"), or give the task a key'
        once = "with one outcome recorded" if self._store is not None else "as there is no store"
        return (
            f'repeat it with .using(id="{outgoing.id}"): this broker notices no ids, so that it may run twice, {once}; '
            "with a key it runs once"
        )

    # ── sending with a key ──

    async def _send_keyed(self, batch: Sequence[tuple[Call[Any], Outgoing]]) -> list[Job[Any] | SendError]:
        """Claim, publish, confirm; each step once for the whole batch."""
        store = self._store
        if store is None:
            call = batch[0][0]
            raise store_required(f"{call.task.name} was called with the key {call.key!r}")
        sendings = [_KeyedCall(call, outgoing) for call, outgoing in batch]
        await self._claim(store, sendings)
        failpoint("enqueue.claimed")
        await self._publish_claimed(store, [sending for sending in sendings if sending.answer is None])
        return [sending.answer for sending in sendings if sending.answer is not None]

    async def _claim(self, store: Store, sendings: list[_KeyedCall]) -> None:
        """Claim the keys. A known key answers at once, or lends its job id if its job may not have been sent."""
        writes = [IdempotencyKeys.claim(sending.name, sending.claim, sending.keep) for sending in sendings]
        ours = {sending.outgoing.id for sending in sendings}
        patience = anyio.current_time() + SENDER_TIMEOUT
        for sending, answer in zip(sendings, await store.put_many(writes), strict=True):
            if isinstance(answer, Conflict) and self._backend.features.dedup == "absent":
                answer = await self._wait_for_sender(store, sending.name, answer, ours, patience)  # noqa: PLW2901 - seen later
            while isinstance(answer, Conflict) and (again := await self._reclaim(store, sending, answer)):
                [answer] = await store.put_many([again])  # noqa: PLW2901 - asked again
            if not isinstance(answer, Conflict):
                sending.version = answer

    async def _wait_for_sender(
        self, store: Store, name: str, conflict: Conflict, ours: Collection[str], until: float
    ) -> Conflict:
        """Where an id that is published twice becomes two jobs, whoever has claimed a key gets time to publish.

        Only if he does not say that he has, because he died, it is published again.
        """
        while conflict.current is not None and anyio.current_time() < until:
            standing = decode_key_record(conflict.current.value)
            if standing.confirmed or standing.job in ours:
                break
            await anyio.sleep(SENDER_POLL)
            conflict = Conflict(await store.get(name))
        return conflict

    async def _reclaim(self, store: Store, sending: _KeyedCall, conflict: Conflict) -> Write | None:
        """What a standing claim means for a new call: an answer, the same job once more, or nothing any more."""
        if conflict.current is None:  # it ended in this moment
            return IdempotencyKeys.claim(sending.name, sending.claim, sending.keep)
        standing = decode_key_record(conflict.current.value)
        if standing.confirmed and await self._is_gone(store, standing):
            return IdempotencyKeys.reclaim(sending.name, sending.claim, conflict.current.version, sending.keep)
        if standing.args != sending.claim.args:
            sending.answer = self._key_conflict(sending, standing)
        elif standing.confirmed:
            sending.answer = self._to_job(sending.call, sending.outgoing_of(standing.job), DUPLICATE)
        else:
            sending.version = conflict.current.version
            sending.claim = standing
            sending.outgoing = self._prepare(sending.call, standing.job)
        return None

    async def _is_gone(self, store: Store, standing: KeyRecord) -> bool:
        """Whether the job of a key ended without a committed outcome: cancelled, expired, purged, wiped away."""
        if standing.state != "sent":
            return False
        ending = await Outcomes(store).find(standing.job)
        if ending is not None:
            return decode_outcome(ending).state != "succeeded"
        if self._backend.features.locate == "absent":
            return False
        return await self._backend.admin.locate(standing.queue, standing.job) is None

    async def _publish_claimed(self, store: Store, sendings: list[_KeyedCall]) -> None:
        """Publish, then say so in the claims; a claim whose job was refused is taken back."""
        if not sendings:
            return
        once = {sending.outgoing.id: sending.outgoing for sending in sendings}  # two calls may have one key
        published = dict(zip(once, await self._publish(list(once.values())), strict=True))
        writes: list[Write] = []
        for sending in sendings:
            answer = published[sending.outgoing.id]
            if isinstance(answer, Stored):
                published[sending.outgoing.id] = DUPLICATE
            sending.answer = self._to_job(sending.call, sending.outgoing, answer)
            if isinstance(answer, Stored | Duplicate):
                writes.append(IdempotencyKeys.confirm(sending.name, sending.claim, sending.version, sending.keep))
            elif isinstance(answer, Refused):
                writes.append(IdempotencyKeys.retract(sending.name, sending.version))
        failpoint("enqueue.published")
        try:
            await store.put_many(writes)
        except BrokerUnavailable as error:
            # The jobs are stored. An unconfirmed claim only means that a duplicate publishes the same job id once more.
            self._events.emit("key.unconfirmed", keys=[sending.claim.key for sending in sendings], error=error)

    def _key_conflict(self, sending: _KeyedCall, standing: KeyRecord) -> KeyConflict:
        self._events.emit("key.conflict", job_id=standing.job, task=sending.call.task.name, key=standing.key)
        error = KeyConflict(
            f'key "{standing.key}" of {sending.call.task.name} was used with other arguments; nothing was sent',
            facts=[f"first used by job {standing.job} ({standing.state})"],
            fix="use a new key for new arguments",
        )
        error.job_id = standing.job
        return error


class _KeyedCall:
    """One call with a key on its way through the three steps."""

    __slots__ = ("answer", "call", "claim", "keep", "name", "outgoing", "version")

    def __init__(self, call: Call[Any], outgoing: Outgoing) -> None:
        key = str(call.key)
        self.call = call
        self.outgoing = outgoing
        self.name = key_name(call.task.name, key)
        self.claim = KeyRecord(key=key, job=outgoing.id, args=fingerprint(call.payload), queue=outgoing.queue)
        self.keep = call.task.options.key_window + outgoing.delay
        self.version: Version = ""
        self.answer: Job[Any] | SendError | None = None

    def outgoing_of(self, job_id: str) -> Outgoing:
        return msgspec.structs.replace(self.outgoing, id=job_id)


def store_required(what: str) -> StoreRequired:
    """The error for a feature that needs a store, on an app without one; two lines that repair it."""
    return StoreRequired(
        f"{what}, but this app has no store to keep it in",
        fix=(
            'give it one: App("amqp://…", store="redis://localhost:6379/0")   # also postgresql://…, nats://…\n'
            '  or, on one machine, a file: App("amqp://…", store="sqlite:///taskcore.db")'
        ),
    )
