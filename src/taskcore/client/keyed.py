"""Sending with a key, in three steps, each of which may be repeated after a crash anywhere in between.

claim the key (compare-and-set)  →  publish under the claim's job id  →  mark the claim as confirmed
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias, TypeVar

import anyio
import msgspec

from taskcore.backend import DUPLICATE, Duplicate, Outgoing, Published, Refused, Stored
from taskcore.components import Components
from taskcore.errors import (
    BrokerUnavailable,
    EnqueueRefused,
    EnqueueUncertain,
    KeyConflict,
    StoreRefused,
    UnreadableRecord,
    WrongTask,
)
from taskcore.records.keys import IdempotencyKeys, KeyRecord, decode_key_record
from taskcore.records.names import key_name, workflow_name
from taskcore.records.outcomes import Outcomes
from taskcore.results import decode_outcome
from taskcore.store import Conflict, Store, Version, Write
from taskcore.task import Call, Job
from taskcore.toolkit.failpoints import failpoint

__all__ = ["KeyedSender", "SendError"]

R = TypeVar("R")

#: Why a call was not sent, or may not have been.
SendError: TypeAlias = (
    EnqueueRefused | EnqueueUncertain | KeyConflict | WrongTask | BrokerUnavailable | StoreRefused | UnreadableRecord
)

SENDER_TIMEOUT, SENDER_POLL = 5.0, 0.05  #: seconds that a key's sender has to confirm it; and between two reads


class KeyedSender:
    """Sends calls that have a key.

    :param prepare: makes the message of a call under a job id.
    :param publish: publishes messages; one answer for each.
    :param to_job: turns an answer into the job, or into the error to raise.
    """

    def __init__(
        self,
        components: Components,
        store: Store,
        *,
        prepare: Callable[[Call[Any], str], Outgoing],
        publish: Callable[[list[Outgoing]], Awaitable[Sequence[Published]]],
        to_job: Callable[[Call[Any], Outgoing, Published], Job[Any] | SendError],
    ) -> None:
        self._backend = components.backend
        self._events = components.events
        self._store = store
        self._outcomes = Outcomes(store)
        self._prepare = prepare
        self._publish = publish
        self._to_job = to_job

    async def send(self, batch: Sequence[tuple[Call[Any], Outgoing]]) -> list[Job[Any] | SendError]:
        """Claim, publish, confirm; each step once for the whole batch."""
        calls = [_KeyedCall(call, outgoing) for call, outgoing in batch]
        await self._claim(calls)
        failpoint("enqueue.claimed")
        await self._publish_claimed([call for call in calls if call.answer is None])
        return [call.answer for call in calls if call.answer is not None]

    # ── claim ──

    async def _claim(self, calls: list[_KeyedCall]) -> None:
        """Claim the keys. A known key answers at once, or lends its job id if its job may not have been sent."""
        ours = {call.outgoing.id for call in calls}
        until = anyio.current_time() + SENDER_TIMEOUT
        for call, answer in zip(calls, await self._write_claims(calls), strict=True):
            if isinstance(answer, StoreRefused | UnreadableRecord):
                call.answer = answer
                continue
            try:
                await self._settle_claim(call, answer, ours, until)
            except (StoreRefused, UnreadableRecord) as error:  # this key's record; the other calls go on
                call.answer = error

    async def _write_claims(
        self, calls: Sequence[_KeyedCall]
    ) -> Sequence[Version | Conflict | StoreRefused | UnreadableRecord]:
        """Write all claims together; one by one if the store cannot have or read one of them."""
        writes = [IdempotencyKeys.claim(call.name, call.claim, call.keep) for call in calls]
        try:
            return await self._store.put_many(writes)
        except (StoreRefused, UnreadableRecord) as error:
            if len(calls) == 1:
                return [error]
        return [(await self._write_claims([call]))[0] for call in calls]

    async def _settle_claim(
        self, call: _KeyedCall, answer: Version | Conflict, ours: Collection[str], until: float
    ) -> None:
        """Take the version of a claim that was written; let a call follow the claim that stands."""
        if isinstance(answer, Conflict) and self._backend.features.dedup == "absent":
            answer = await self._wait_for_sender(call.name, answer, ours, until)
        while isinstance(answer, Conflict) and (again := await self._reclaim(call, answer)):
            [answer] = await self._store.put_many([again])
        if not isinstance(answer, Conflict):
            call.version = answer

    async def _wait_for_sender(self, name: str, conflict: Conflict, ours: Collection[str], until: float) -> Conflict:
        """Give the key's current sender time to confirm it, on brokers without deduplication.

        The job is published again only if its sender never does: such a broker would store it twice.
        """
        while conflict.current is not None and anyio.current_time() < until:
            standing = decode_key_record(conflict.current.value)
            if standing.confirmed or standing.job in ours:
                break
            await anyio.sleep(SENDER_POLL)
            conflict = Conflict(await self._store.get(name))
        return conflict

    async def _reclaim(self, call: _KeyedCall, conflict: Conflict) -> Write | None:
        """Apply a standing claim to a call: it answers it, or lends its job id, or this write claims the key anew."""
        if conflict.current is None:  # it ended in this moment
            return IdempotencyKeys.claim(call.name, call.claim, call.keep)
        standing = decode_key_record(conflict.current.value)
        if standing.confirmed and await self._is_gone(standing):
            return IdempotencyKeys.claim(call.name, call.claim, call.keep, expect=conflict.current.version)
        if standing.args != call.claim.args:
            call.answer = self._key_conflict(call, standing)
        elif standing.confirmed:
            call.answer = self._to_job(call.call, msgspec.structs.replace(call.outgoing, id=standing.job), DUPLICATE)
        else:
            call.version = conflict.current.version
            call.claim = standing
            call.outgoing = self._prepare(call.call, standing.job)
        return None

    async def _is_gone(self, standing: KeyRecord) -> bool:
        """Tell whether the job of a key ended without a committed outcome: cancelled, expired, purged, deleted."""
        if standing.state != "sent":
            return False
        outcome = await self._outcomes.find(standing.job)
        if outcome is not None:
            return decode_outcome(outcome).state != "succeeded"
        if self._backend.features.locate == "absent":
            return False
        if await self._store.get(workflow_name(standing.job)) is not None:  # it goes on as a workflow
            return False
        return await self._backend.admin.locate(standing.queue, standing.job) is None

    def _key_conflict(self, call: _KeyedCall, standing: KeyRecord) -> KeyConflict:
        task = call.call.task.name
        self._events.emit("key.conflict", job_id=standing.job, task=task, key=standing.key)
        return KeyConflict(
            f'key "{standing.key}" of {task} was used with other arguments; nothing was sent',
            facts=[f"first used by job {standing.job} ({standing.state})"],
            fix="use a new key for new arguments",
            job_id=standing.job,
        )

    # ── publish and confirm ──

    async def _publish_claimed(self, calls: list[_KeyedCall]) -> None:
        """Publish, then confirm the claims; the claim of a refused job is retracted."""
        if not calls:
            return
        once = {call.outgoing.id: call.outgoing for call in calls}  # two calls may have one key
        published = dict(zip(once, await self._publish(list(once.values())), strict=True))
        writes: list[Write] = []
        for call in calls:
            answer = published[call.outgoing.id]
            if isinstance(answer, Stored):
                published[call.outgoing.id] = DUPLICATE
            call.answer = self._to_job(call.call, call.outgoing, answer)
            if isinstance(answer, Stored | Duplicate):
                writes.append(IdempotencyKeys.confirm(call.name, call.claim, call.version, call.keep))
            elif isinstance(answer, Refused):
                writes.append(IdempotencyKeys.retract(call.name, call.version))
        failpoint("enqueue.published")
        try:
            await self._store.put_many(writes)
        except (BrokerUnavailable, StoreRefused, UnreadableRecord) as error:
            # The jobs are stored. An unconfirmed claim only means that a duplicate publishes the same job id once more.
            self._events.emit("key.unconfirmed", keys=[call.claim.key for call in calls], error=error)


class _KeyedCall:
    """One call with a key on its way through the three steps."""

    __slots__ = ("answer", "call", "claim", "keep", "name", "outgoing", "version")

    def __init__(self, call: Call[Any], outgoing: Outgoing) -> None:
        key = str(call.key)
        self.call = call
        self.outgoing = outgoing
        self.name = key_name(call.task.name, key)
        contract = call.task.contract
        args = contract.fingerprint(contract.unpack(call.payload, contract.version))
        self.claim = KeyRecord(key=key, job=outgoing.id, args=args, queue=outgoing.queue)
        self.keep = call.task.options.key_window + outgoing.delay
        self.version: Version = ""
        self.answer: Job[Any] | SendError | None = None
