"""Deciding: from an outcome to a settlement, by the rules of the lifecycle. Pure but for the dice of the jitter."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec

from taskcore.backend import VerdictRefused
from taskcore.contract.codec import first_line
from taskcore.envelope import NOTHING_YET, CallRetry, ErrorRecord, encode_trail
from taskcore.lifecycle import (
    ACK,
    ENDS,
    Bury,
    Deferred,
    Malformed,
    Outcome,
    Raised,
    Release,
    Reschedule,
    Rules,
    TimedOut,
    Unencodable,
    Unregistered,
    Verdict,
    decide,
)
from taskcore.observe import EventName, Events
from taskcore.policy import Retry
from taskcore.results import event_of, stored_outcome
from taskcore.store import Version, Write
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import ENDED, ENDED_ACKED, UNDECODED, Execution

__all__ = ["Decider", "Settlement", "bury_unstored", "error_in"]

log = logger("taskcore.worker")


class Settlement(msgspec.Struct, gc=False, eq=False):
    """A job, its outcome, and how far its settling has got.

    :param stored: the encoded outcome that callers will read; None while the job goes on, or if it is not kept.
    :param keep: seconds for which it is kept.
    :param committed: the key's outcome is written.
    :param tried: the broker got the verdict at least once.
    :param settled: the broker got the verdict, and answered.
    :param note: what callers are told beside it.
    :param written: the version of the outcome's record, if this worker wrote it.
    """

    job: Execution
    outcome: Outcome
    verdict: Verdict
    stored: bytes | None
    keep: float | None
    committed: bool = False
    tried: bool = False
    settled: bool = False
    note: Write | None = None
    written: Version | None = None

    @property
    def event(self) -> EventName:
        """The name of its event, by which it is counted, too."""
        return event_of(self.outcome, self.verdict, self.job.acked_early)

    def overrule(self, verdict: Verdict, events: Events) -> None:
        """Put another verdict in place of the first, and count the job by that one."""
        events.counters[self.event] -= 1
        self.verdict = verdict
        events.counters[self.event] += 1

    @property
    def facts(self) -> Mapping[str, Any]:
        """For events."""
        outcome, verdict = self.outcome, self.verdict
        reason = verdict.reason if isinstance(verdict, Bury) else None
        if isinstance(outcome, Deferred):
            reason = outcome.why
        return {**self.job.labels, "seconds": self.job.seconds, "error": error_in(outcome), "reason": reason}


class Decider:
    """Asks the rules, and prepares what callers will read.

    :param park_for: seconds for which a job waits for a worker that knows its task.
    :param keep_result: seconds for which the outcome of a job of an unknown task is kept; None: not at all.
    :param tell_parked: called with a job that is parked for some seconds; returns what tells its callers.
    """

    def __init__(
        self,
        *,
        park_for: float,
        keep_result: float | None,
        tell_parked: Callable[[Execution, Unregistered, float], Write | None],
    ) -> None:
        # A job of an unknown task never starts, so only the time to park it counts.
        self._unknown = Rules(retry=Retry(), crashes=1, park_for=park_for)
        self._keep = keep_result
        self._tell_parked = tell_parked
        self._roll = random.Random().random

    def settlement(self, job: Execution, outcome: Outcome) -> Settlement:
        """Decide what to write and what to tell the broker. The job has ended."""
        task = job.task
        rules, keep = (self._unknown, self._keep) if task is None else (task.options.rules, task.options.keep_result)
        if job.envelope.retry is not None:
            rules = _with_call(rules, job.envelope.retry)
        if job.started_at:
            job.seconds = anyio.current_time() - job.started_at
        verdict = ACK if type(outcome) in ENDS else decide(outcome, job.trail, rules, roll=self._roll())
        was_acked = job.state > ENDED
        job.state = ENDED_ACKED if was_acked else ENDED
        if verdict is not ACK:
            verdict = _adapted(verdict, job, outcome, was_acked=was_acked)
            _log(job, outcome, verdict)
            if keep is None and task is not None and job.envelope.tick is not None and type(verdict) is Bury:
                keep = task.options.key_window  # the next tick asks for it, and a key does not tell of a death
            if isinstance(outcome, Unregistered) and isinstance(verdict, Reschedule):
                note = self._tell_parked(job, outcome, verdict.after)
                return Settlement(job, outcome, verdict, None, keep, note=note)
        if (keep is None and job.key is None) or job.envelope is UNDECODED:
            return Settlement(job, outcome, verdict, None, keep)
        pack_error = task.contract.pack_error if task is not None else None
        return Settlement(job, outcome, verdict, stored_outcome(outcome, verdict, job.envelope.task, pack_error), keep)


def _adapted(verdict: Verdict, job: Execution, outcome: Outcome, *, was_acked: bool) -> Verdict:
    """Make a verdict of the rules fit what the broker has of this job."""
    if was_acked and isinstance(verdict, Reschedule | Release):
        # The broker has forgotten the job: this was its one start, and its caller has to learn that.
        return Bury("at most once", encode_trail(job.trail))
    if isinstance(outcome, Malformed) and isinstance(verdict, Bury) and job.trail is NOTHING_YET:
        return Bury(verdict.reason, job.delivery.trail)  # the bytes as they came: perhaps they are no trail
    return verdict


def bury_unstored(one: Settlement, error: Exception, events: Events) -> None:
    """Change the settlement of a job that cannot end as it should: a dead letter, with the reason.

    Where the store refuses its records, without an outcome; where the broker refuses another attempt, with one.
    """
    job, task, refused = one.job, one.job.task, isinstance(error, VerdictRefused)
    reason = f"its {'next attempt' if refused else 'end'} cannot be stored: {first_line(error)}"
    log.error("job %s of %s is dead, %s", job.id, job.envelope.task, reason, extra=job.extra)
    trail = one.verdict.trail if isinstance(one.verdict, Reschedule) else encode_trail(job.trail)
    one.overrule(Bury(reason, trail), events)
    one.stored, one.committed = None, True
    if refused and one.keep is not None:
        pack_error = None if task is None else task.contract.pack_error
        one.stored = stored_outcome(one.outcome, one.verdict, job.envelope.task, pack_error)


def _with_call(rules: Rules, own: CallRetry) -> Rules:
    """Put the numbers of one call in place of those of its task's policy."""
    given = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not None}
    return msgspec.structs.replace(rules, retry=msgspec.structs.replace(rules.retry, **given))


def error_in(outcome: Outcome) -> ErrorRecord | None:
    """Get the record of the error that ended an attempt, if one did."""
    return outcome.record if isinstance(outcome, Raised | TimedOut | Unencodable) else None


def _log(job: Execution, outcome: Outcome, verdict: Verdict) -> None:
    """Log one line for each attempt that failed and for each death: what, where, and what follows."""
    task, extra = job.envelope.task, job.extra
    record = error_in(outcome)
    if record is None:
        _log_without_error(job, outcome, verdict, extra)
        return
    error = f"{record.type}: {record.message}" + (f" ({record.where})" if record.where else "")
    if isinstance(verdict, Reschedule):
        again = verdict.after
        text = "job %s of %s: attempt %d failed with %s; again in %.1f s"
        log.info(text, job.id, task, record.attempt, error, again, extra=extra)
    elif job.state is ENDED_ACKED:
        text = "job %s of %s failed with %s; it runs at most once, so it is not tried again"
        log.error(text, job.id, task, error, extra=extra)
    elif isinstance(verdict, Bury):
        log.error("job %s of %s is dead, %s: %s", job.id, task, verdict.reason, error, extra=extra)


def _log_without_error(job: Execution, outcome: Outcome, verdict: Verdict, extra: Mapping[str, Any]) -> None:
    task = job.envelope.task
    if job.envelope is UNDECODED and isinstance(verdict, Bury):
        size, queue = len(job.delivery.envelope), job.delivery.queue
        text = "a message of %d bytes in queue %s is a dead letter now: %s"
        log.error(text, size, queue, verdict.reason, extra=extra)
    elif isinstance(verdict, Bury):
        log.error("job %s of %s is dead: %s", job.id, task, verdict.reason, extra=extra)
    elif isinstance(outcome, Deferred):
        text = "job %s of %s is deferred for %.1f s: %s"
        log.debug(text, job.id, task, outcome.after, outcome.why, extra=extra)
