"""Concluding: from an outcome to everything that settling needs. Pure but for the dice of the jitter."""

from __future__ import annotations

import random

from taskcore.envelope import ErrorRecord
from taskcore.lifecycle import Bury, Failed, Outcome, Retry, Rules, TimedOut, Unencodable, Verdict, decide
from taskcore.logs import logger
from taskcore.worker.endings import ending_of
from taskcore.worker.hand import Job
from taskcore.worker.settling import Conclusion

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

    def conclude(self, job: Job, outcome: Outcome) -> Conclusion:
        """What to write and what to tell the broker."""
        task = job.task
        rules, keep = (self._strangers, self._keep) if task is None else (task.options.rules, task.options.keep_result)
        verdict = decide(outcome, job.story, rules, roll=self._roll())
        if isinstance(outcome, Failed | TimedOut | Unencodable):
            _tell(job, verdict, outcome.record)
        elif isinstance(verdict, Bury):
            log.error("job %s of %s is dead: %s", job.id, job.envelope.task, verdict.reason)
        return Conclusion(job, outcome, verdict, ending_of(job, outcome, verdict, keep), keep)


def _tell(job: Job, verdict: Verdict, record: ErrorRecord) -> None:
    """One line for each attempt that failed: what, where, and what follows."""
    told = f"{record.type}: {record.message}" + (f" ({record.where})" if record.where else "")
    if isinstance(verdict, Retry):
        log.info(
            "job %s of %s: attempt %d failed with %s; again in %.1f s",
            job.id,
            job.envelope.task,
            record.attempt,
            told,
            verdict.after,
        )
    elif job.forgotten:
        log.error("job %s of %s failed with %s; at most once, so that is all", job.id, job.envelope.task, told)
    elif isinstance(verdict, Bury):
        log.error("job %s of %s is dead, %s: %s", job.id, job.envelope.task, verdict.reason, told)
