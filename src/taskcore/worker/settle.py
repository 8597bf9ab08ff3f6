"""Settling: what was concluded becomes durable, in the order of the contract (C8).

    1. the key's outcome     committed under its fence; a job that lost its hold commits nothing
    2. the ending            written once; an ending that is there already stands
    3. the verdict           settle, the last step: only now may the broker forget the job; told as soon as it is done
    4. the start marker      cleared

Each step is one batch for all jobs that ended while the last batch was under way, and may be repeated: whatever fails
is tried again until the leases are over, then left to the broker, which hands the jobs out again. This is the only
place in the library that calls ``settle``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import anyio
import msgspec

from taskcore.backend import Source
from taskcore.envelope import encode_trail
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import (
    ACK,
    Ack,
    AlreadyDone,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Outcome,
    Release,
    Reschedule,
    Returned,
    Unencodable,
    Unregistered,
    Verdict,
)
from taskcore.observe import Events
from taskcore.records.keys import Acquired, IdempotencyKeys, decode_key_record, key_name
from taskcore.results import Outcomes, StoredOutcome, decode_outcome
from taskcore.store import ABSENT, Conflict, Store, Version, Write
from taskcore.toolkit.batching import Buffer
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import Execution
from taskcore.worker.outages import Outage

__all__ = ["Settlement", "Settler"]

log = logger("taskcore.worker")

SETTLE_BACKLOG = 2_000  #: conclusions waiting, above which no new jobs are received


class Settlement(msgspec.Struct, gc=False, eq=False):
    """A job, what it came to, and how far its settling has got.

    :param ending: what callers will read; None while the job goes on, or if nobody may ask.
    :param keep: seconds for which they may.
    :param committed: the key's outcome is written.
    :param tried: the broker was told at least once.
    :param settled: the broker was told, and answered.
    :param written: the version of the ending, if we wrote it.
    """

    job: Execution
    outcome: Outcome
    verdict: Verdict
    stored: bytes | None
    keep: float | None
    committed: bool = False
    tried: bool = False
    settled: bool = False
    written: Version | None = None


class Settler:
    """Carries conclusions to store and broker, a batch at a time.

    :param forget: called with the jobs that are no longer in hand.
    :param outage: told when the broker cannot be reached, and when it can again.
    :param lease_over: whether a job's lease has ended by our own clock.
    """

    def __init__(
        self,
        store: Store | None,
        events: Events,
        *,
        forget: Callable[[Sequence[Execution]], None],
        lease_over: Callable[[Execution, float], bool],
        keys: anyio.Lock,
        outage: Outage,
    ) -> None:
        self._store = store
        self._events = events
        self._forget = forget
        self._lease_over = lease_over
        self._keys = keys
        self._concluded = Buffer[Settlement](full=SETTLE_BACKLOG)
        self.put = self._concluded.put  #: hand over a conclusion; never waits
        self._outage = outage

    @property
    def is_behind(self) -> bool:
        """Whether more is concluded than can be settled at the moment."""
        return self._concluded.is_full

    def close(self) -> None:
        """No more conclusions will come; ``run`` ends when the last one is settled."""
        self._concluded.close()

    async def run(self) -> None:
        """Settle until closed."""
        while batch := await self._concluded.take():
            while batch := self._still_ours(batch):
                try:
                    await self.commit(batch)
                    break
                except BrokerUnavailable as error:
                    await self._outage.failed(error)
            self._outage.recovered()

    def _still_ours(self, batch: list[Settlement]) -> list[Settlement]:
        """Without those whose lease is over: somebody else may run them, so hands off (C7)."""
        now = anyio.current_time()
        over = self._lease_over
        kept = [one for one in batch if one.settled or one.job.acked_early or not (one.job.lost or over(one.job, now))]
        if len(kept) < len(batch):
            for conclusion in batch:
                if conclusion not in kept:
                    self._lost(conclusion.job)
        return kept

    def _lost(self, job: Execution) -> None:
        log.warning("lease of job %s lost; its outcome here is not recorded, another worker has it", job.id)
        self._events.emit("job.lost", **job.labels)
        self._forget([job])

    async def commit(self, batch: Sequence[Settlement]) -> None:
        """The four steps for one batch.

        :raises BrokerUnavailable: what was not done yet may be done by committing the batch again.
        """
        if self._store is not None:
            holding = [one for one in batch if one.job.key is not None and not one.committed]
            if holding:
                await self._commit_keys(self._store, holding)
                failpoint("settle.committed")
            await self._release_keys(self._store, batch)
            await self._write_outcomes(self._store, [one for one in batch if not one.settled])
        failpoint("settle.ended")
        await self._settle([one for one in batch if not one.settled])
        failpoint("settle.settled")
        settled = [one for one in batch if one.settled]
        if self._store is not None:
            if len(settled) < len(batch):
                await self._retract_outcomes(self._store, [one for one in batch if not one.settled])
            await self._clear_markers(self._store, settled)
        self._forget([one.job for one in settled])

    async def _commit_keys(self, store: Store, batch: Sequence[Settlement]) -> None:
        """The outcome of a key is what its holder says; a job whose hold was taken by another waits for the other's."""
        async with self._keys:  # a hold that is being prolonged at this moment has another version in a moment
            writes = [_key_write(one, one.job.key) for one in batch if one.job.key is not None]
            answers = list(await store.put_many(writes))
            for index, answer in enumerate(answers):
                if isinstance(answer, Conflict) and answer.current is None:  # its window ended before it did
                    [answers[index]] = await store.put_many([msgspec.structs.replace(writes[index], expect=ABSENT)])
        for conclusion, answer in zip(batch, answers, strict=True):
            conclusion.committed = True
            if not isinstance(answer, Conflict):
                continue
            if _is_ours(conclusion, answer):
                _adopt_completed(conclusion, answer)
            else:
                self._events.emit("key.lost", **conclusion.job.labels)
                if (
                    isinstance(conclusion.verdict, Ack)
                    or isinstance(conclusion.outcome, Unencodable)
                    or _is_running_elsewhere(conclusion, answer)
                ):
                    conclusion.verdict = Reschedule(1.0, conclusion.job.delivery.trail)
                    conclusion.stored = None

    async def _release_keys(self, store: Store, batch: Sequence[Settlement]) -> None:
        """A job that ends unrun, expired or as poison, commits nothing: its key is given back."""
        for one in batch:
            key = one.job.envelope.key
            if key is None or one.job.key is not None or one.committed:
                continue
            if not isinstance(one.verdict, Bury) and not isinstance(one.outcome, CancelledBefore | DeadlinePassed):
                continue
            name = key_name(one.job.envelope.task, key)
            record = await store.get(name)
            claim = decode_key_record(record.value) if record is not None else None
            if record is not None and claim is not None and claim.job == one.job.id and claim.state != "done":
                window = one.job.task.options.key_window if one.job.task is not None else KEY_KEPT
                # Not deleted: a holder that is late must find that the key is not his any more.
                await store.put_many([IdempotencyKeys.release(Acquired(name, claim, record.version, window, window))])
            one.committed = True

    async def _write_outcomes(self, store: Store, batch: Sequence[Settlement]) -> None:
        ended: list[Settlement] = []
        writes: list[Write] = []
        for one in batch:
            if one.stored is not None and one.keep is not None:
                ended.append(one)
                writes.append(Outcomes.write(one.job.id, one.stored, one.keep))
        if not writes:
            return
        for one, answer in zip(ended, await store.put_many(writes), strict=True):
            if isinstance(answer, Conflict):
                await self._accept_existing(store, one, answer)
            else:
                one.written = answer

    async def _accept_existing(self, store: Store, one: Settlement, answer: Version | Conflict) -> None:
        """An ending that is there already stands (C18).

        It is written once more, as it is: whoever wrote it may have lost the lease, and must not withdraw now what this
        job's end is built on.
        """
        key = f"job/{one.job.id}"
        while isinstance(answer, Conflict) and one.stored is not None:
            found = answer.current
            if found is None:  # withdrawn in this moment
                answer = await store.put(key, one.stored, expect=ABSENT, keep=one.keep)
                one.written = None if isinstance(answer, Conflict) else answer
                continue
            answer = await store.put(key, found.value, expect=found.version, keep=one.keep)
            if not isinstance(answer, Conflict) and found.value != one.stored:
                self._events.emit("result.ignored", job_id=one.job.id)
                one.verdict = _verdict_for_stored(one, decode_outcome(found.value))

    async def _settle(self, batch: Sequence[Settlement]) -> None:
        by_source: dict[Source, list[Settlement]] = {}
        over: list[Settlement] = []
        for one in batch:
            if one.job.acked_early:
                one.settled = True
                over.append(one)
            else:
                by_source.setdefault(one.job.source, []).append(one)
        if over:
            self._report(over)
        for source, known in by_source.items():
            await self._settle_at(source, known)

    async def _settle_at(self, source: Source, batch: Sequence[Settlement]) -> None:
        repeated = {id(one) for one in batch if one.tried}
        for one in batch:
            one.tried = True
        lost = {id(delivery) for delivery in await source.settle([(one.job.delivery, one.verdict) for one in batch])}
        for one in batch:
            if not lost or id(one.job.delivery) not in lost:
                one.settled = True
            elif id(one) in repeated:  # the first try may have been carried out, its answer lost
                self._events.emit("settle.unconfirmed", **one.job.labels)
                one.settled = True
            else:
                self._lost(one.job)
        self._report([one for one in batch if one.settled] if lost else batch)

    def _report(self, batch: Sequence[Settlement]) -> None:
        """Tell it as soon as it is so: what is left to do may fail, and be done late or never (C19)."""
        self._events.counters.update([_event_name(one) for one in batch])
        if self._events.listeners:
            for one in batch:
                reason = one.verdict.reason if isinstance(one.verdict, Bury) else None
                self._events.tell(_event_name(one), {**one.job.labels, "reason": reason})

    async def _retract_outcomes(self, store: Store, batch: Sequence[Settlement]) -> None:
        """The lease was lost between our last look and the settling: what we wrote then is not the job's ending (C7).

        A key's outcome stands: it was committed under a fence of its own, and whoever has the job now will find it.
        """
        writes = [
            Write(key=f"job/{one.job.id}", value=None, expect=one.written)
            for one in batch
            if one.written is not None and one.job.key is None
        ]
        if writes:
            await store.put_many(writes)

    async def _clear_markers(self, store: Store, batch: Sequence[Settlement]) -> None:
        """A start that ended is no crash; one that was interrupted never happened."""
        writes: list[Write] = []
        for conclusion in batch:
            job = conclusion.job
            if job.marker is None:
                continue
            before = job.crashes - job.trail.crashes
            if isinstance(conclusion.verdict, Release) and before:
                writes.append(Write(key=job.marker, value=str(before).encode(), keep=MARKER_KEPT))
            else:
                writes.append(Write(key=job.marker, value=None))
        if writes:
            await store.put_many(writes)


KEY_KEPT = 86_400.0  #: seconds for which the key of a job of an unknown task is remembered after its end
MARKER_KEPT = 7 * 86_400.0  #: seconds for which a start without an outcome is remembered


def _verdict_for_stored(conclusion: Settlement, standing: StoredOutcome) -> Verdict:
    """An ending that was stored first stands (C18), and the dead letter has to be there if, and only if, it says so."""
    if standing.state != "dead":
        return ACK
    if isinstance(conclusion.verdict, Bury):
        return conclusion.verdict
    return Bury(standing.reason, encode_trail(conclusion.job.history))


def _key_write(conclusion: Settlement, hold: Acquired) -> Write:
    """What the end of a job means for its key."""
    if isinstance(conclusion.outcome, Returned | Unencodable) and conclusion.stored is not None:
        return IdempotencyKeys.complete(hold, conclusion.stored)
    # Given back, and not deleted, even when the job is to die: it may be handed out once more before its death is
    # durable, and then nobody else may have taken the key for free. A sender who meets it sees that its job is dead.
    return IdempotencyKeys.release(hold)


def _is_ours(conclusion: Settlement, conflict: Conflict) -> bool:
    """The write was done by this start of the job: an earlier try whose answer was lost, or the function itself."""
    hold = conclusion.job.key
    if conflict.current is None or hold is None:
        return False
    standing = decode_key_record(conflict.current.value)
    return standing.job == hold.claim.job and standing.fence == hold.claim.fence


def _is_running_elsewhere(conclusion: Settlement, conflict: Conflict) -> bool:
    """Another start of this very job has its key, and what comes of that one is how the job ends.

    A broker that keeps no ids has a job twice when its enqueue was repeated.
    """
    hold = conclusion.job.key
    if conclusion.stored is None or conflict.current is None or hold is None:
        return False
    standing = decode_key_record(conflict.current.value)
    return standing.job == hold.claim.job and standing.state != "sent"


def _adopt_completed(conclusion: Settlement, conflict: Conflict) -> None:
    """What is committed is how the job ended, even if its function raised, or was interrupted, after it had said so."""
    standing = decode_key_record(conflict.current.value) if conflict.current is not None else None
    if standing is None or standing.state != "done" or standing.job != conclusion.job.id:
        return
    conclusion.stored = bytes(standing.outcome)
    verdict = _verdict_for_stored(conclusion, decode_outcome(conclusion.stored))
    if verdict != conclusion.verdict:
        log.warning(
            "job %s committed its outcome before it ended otherwise; what it committed counts", conclusion.job.id
        )
        conclusion.verdict = verdict


def _event_name(conclusion: Settlement) -> str:
    if isinstance(conclusion.verdict, Ack):
        return _ACKED.get(type(conclusion.outcome), "job.succeeded")
    if conclusion.job.acked_early:
        return "job.failed"  # at most once: the broker had to forget it before it started, so there is no letter
    match conclusion.verdict:
        case Reschedule():
            return _RETRIED.get(type(conclusion.outcome), "job.retried")
        case Release():
            return "job.released"
        case Bury():
            return "job.buried"


_ACKED: Mapping[type[Outcome], str] = {
    AlreadyDone: "job.skipped",
    CancelledBefore: "job.cancelled",
    DeadlinePassed: "job.expired",
}
_RETRIED: Mapping[type[Outcome], str] = {Unregistered: "job.parked", Deferred: "job.contended"}
