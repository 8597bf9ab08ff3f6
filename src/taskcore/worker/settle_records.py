"""Settling records: what a job's end means for its key and its outcome, and what these mean for it (C10, C18)."""

from __future__ import annotations

from collections.abc import Sequence

from taskcore.errors import UnreadableRecord
from taskcore.lifecycle import (
    Ack,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Release,
    Reschedule,
    Returned,
    Unencodable,
    Verdict,
    bury,
)
from taskcore.observe import Events
from taskcore.records import Records
from taskcore.records.keys import BUSY_RETRY, Completed, IdempotencyKeys, Lost
from taskcore.records.names import key_name
from taskcore.records.outcomes import Existing
from taskcore.results import other_task_of, verdict_of_stored
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.worker.decide import Settlement

__all__ = ["RecordSettler"]

log = logger("taskcore.worker")

KEY_KEPT = 86_400.0  #: seconds for which the key of a job of an unknown task is remembered after its end


class RecordSettler:
    """What settling does with the records of a store, before and after the verdicts."""

    def __init__(self, records: Records, events: Events) -> None:
        self.records = records
        self._events = events

    async def before(self, batch: Sequence[Settlement]) -> None:
        """Commit or release keys and store outcomes; done again, it does what is not done yet."""
        if keyed := [one for one in batch if one.job.envelope.key is not None and not one.committed]:
            await _settle_keys(self.records.keys, self._events, keyed)
        if ended := [one for one in batch if one.stored is not None and one.keep is not None and not one.settled]:
            await self.store_outcomes(ended)

    async def store_outcomes(self, batch: Sequence[Settlement]) -> None:
        """Write how these jobs ended; an outcome that is stored already stands (C18)."""
        outcomes = self.records.outcomes
        writes = [outcomes.write(one.job.envelope.id, one.stored or b"", one.keep or 0.0) for one in batch]
        for one, answer in zip(batch, await outcomes.write_many(writes), strict=True):
            if not isinstance(answer, Existing):
                one.written = answer
            elif answer.outcome != one.stored:
                self._events.emit("result.ignored", job_id=one.job.id)
                one.overrule(_verdict_of_existing(answer.outcome, one), self._events)

    async def after(self, batch: Sequence[Settlement]) -> None:
        """Retract the outcomes of jobs whose lease was lost before the verdict, and clear start markers.

        What was written is not how a lost job ended (C7). A key's outcome stands: it was committed under its own fence,
        and the next worker of the job finds it.
        """
        lost = [one for one in batch if not one.settled and one.job.key is None]
        if lost:
            await self.records.outcomes.retract([(one.job.id, one.written) for one in lost if one.written is not None])
        if notes := [one.note for one in batch if one.note is not None and one.settled]:
            await self.records.note(notes)
        if marked := [one for one in batch if one.settled and one.job.marker is not None]:
            # A start that ended is no crash; one that was interrupted never happened.
            left = [
                (one.job.marker or "", one.job.found if isinstance(one.verdict, Release) else None) for one in marked
            ]
            await self.records.markers.clear(left)


async def _settle_keys(keys: IdempotencyKeys, events: Events, batch: Sequence[Settlement]) -> None:
    """Commit or release the keys of these jobs; all of them have one, and none is committed yet."""
    held = [one for one in batch if one.job.key is not None]
    if held:
        await _commit(keys, events, held)
        failpoint("settle.committed")
    for one in batch:
        if not one.committed and (
            isinstance(one.verdict, Bury) or isinstance(one.outcome, CancelledBefore | DeadlinePassed)
        ):
            await _release_unrun(keys, one)


async def _commit(keys: IdempotencyKeys, events: Events, batch: Sequence[Settlement]) -> None:
    """Write how each holder ended. A job whose key is lost comes again, and gets the outcome of the other holder."""
    ends = [(one.job.key, _completing(one)) for one in batch if one.job.key is not None]
    for one, answer in zip(batch, await keys.commit(ends), strict=True):
        one.committed = True
        if isinstance(answer, Completed):
            _adopt(one, answer.outcome, events)
        elif isinstance(answer, Lost):
            events.emit("key.lost", **one.job.labels)
            elsewhere = answer.same_job and one.stored is not None
            if isinstance(one.verdict, Ack) or isinstance(one.outcome, Unencodable) or elsewhere:
                one.overrule(Reschedule(BUSY_RETRY, one.job.delivery.trail), events)
                one.stored = None


def _completing(one: Settlement) -> bytes | None:
    """Choose the outcome that completes the key; None releases it, even when the job is to die."""
    return one.stored if isinstance(one.outcome, Returned | Unencodable) else None


def _adopt(one: Settlement, outcome: bytes, events: Events) -> None:
    """Take over a committed outcome: the job ended so, even if its function raised or was interrupted afterwards."""
    one.stored = outcome
    verdict = _verdict_of_existing(outcome, one)
    if verdict != one.verdict:
        log.warning("job %s committed its outcome before it ended otherwise; the committed one counts", one.job.id)
        one.overrule(verdict, events)


async def _release_unrun(keys: IdempotencyKeys, one: Settlement) -> None:
    """Release the key of a job that ends without a run: expired, cancelled, or buried before its start."""
    job = one.job
    window = job.task.options.key_window if job.task is not None else KEY_KEPT
    await keys.release_unrun(key_name(job.envelope.task, str(job.envelope.key)), job.id, window)
    one.committed = True


def _verdict_of_existing(outcome: bytes, one: Settlement) -> Verdict:
    """Find the verdict that fits the outcome that was there; callers cannot read one that is unreadable."""
    try:
        if other := other_task_of(outcome, one.job.envelope.task):
            log.warning("job %s of %s: its id belongs to a job of %s", one.job.id, one.job.envelope.task, other)
            return one.verdict
        return verdict_of_stored(outcome, one.verdict, one.job.trail)
    except UnreadableRecord as error:
        return bury(error.what, one.job.trail)
