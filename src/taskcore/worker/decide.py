"""Concluding: from an outcome to everything that settling needs. Pure but for the dice of the jitter."""

from __future__ import annotations

import random

from taskcore.envelope import encode_trail
from taskcore.lifecycle import (
    Ack,
    Bury,
    Outcome,
    Raised,
    Release,
    Reschedule,
    Rules,
    TimedOut,
    Unencodable,
    Verdict,
    decide,
)
from taskcore.toolkit.logging import logger
from taskcore.worker.endings import stored_outcome_of
from taskcore.worker.execution import Execution
from taskcore.worker.settle import Settlement

__all__ = ["Concluder"]

log = logger("taskcore.worker")


class Concluder:
    """Asks the rule book, and prepares what callers will read.

    :param park_for: seconds for which a job waits for a worker that knows its task.
    :param keep_result: seconds for which the ending of a job of an unknown task can be asked for; None: not at all.
    """

    def __init__(self, *, park_for: float, keep_result: float | None) -> None:
        self._strangers = Rules(park_for=park_for)
        self._keep = keep_result
        self._roll = random.Random().random

    def conclude(self, job: Execution, outcome: Outcome) -> Settlement:
        """What to write and what to tell the broker."""
        task = job.task
        rules, keep = (self._strangers, self._keep) if task is None else (task.options.rules, task.options.keep_result)
        verdict = decide(outcome, job.history, rules, roll=self._roll())
        if job.acked_early and isinstance(verdict, Reschedule | Release):
            # The broker cannot be asked to hand it out again: this was its one start, and its caller has to learn that.
            verdict = Bury("at most once", encode_trail(job.history))
        if not isinstance(verdict, Ack):
            _tell(job, outcome, verdict)
        return Settlement(job, outcome, verdict, stored_outcome_of(job, outcome, verdict, keep), keep)


def _tell(job: Execution, outcome: Outcome, verdict: Verdict) -> None:
    """One line for each attempt that failed and for each death: what, where, and what follows."""
    task = job.envelope.task
    if not isinstance(outcome, Raised | TimedOut | Unencodable):
        if isinstance(verdict, Bury):
            log.error("job %s of %s is dead: %s", job.id, task, verdict.reason)
        return
    record = outcome.record
    told = f"{record.type}: {record.message}" + (f" ({record.where})" if record.where else "")
    if isinstance(verdict, Reschedule):
        again = verdict.after
        log.info("job %s of %s: attempt %d failed with %s; again in %.1f s", job.id, task, record.attempt, told, again)
    elif job.acked_early:
        log.error("job %s of %s failed with %s; at most once, so that is all", job.id, task, told)
    elif isinstance(verdict, Bury):
        log.error("job %s of %s is dead, %s: %s", job.id, task, verdict.reason, told)
