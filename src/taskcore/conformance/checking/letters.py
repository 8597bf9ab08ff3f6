"""Whether dead letters tell the truth (C13): their bytes, errors and reasons against the histories of their jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from taskcore.conformance.checking.expectations import Expectations
from taskcore.conformance.checking.job_histories import JobHistories, JobHistory
from taskcore.conformance.checking.recorder import RAW
from taskcore.conformance.checking.report import Violation
from taskcore.conformance.checking.snapshot import FoundLetter, Snapshot

__all__ = ["Limit", "by_job", "limit_of", "untrue_letters"]

Limit: TypeAlias = int | Callable[[str], int]  #: a number, or a function from job id to it

KEPT_ERRORS = 25  #: a trail keeps the first 5 and the last 20 errors; of a longer history some are left out
TIMEOUT = "TimeoutError: "  #: how a trail records a run that was interrupted because its time was over
UNENCODABLE = "result"  #: the reason of a job whose function returned what cannot be encoded: an error without a raise


def by_job(letters: Iterable[FoundLetter]) -> dict[str, list[FoundLetter]]:
    """Group the letters by job."""
    found: dict[str, list[FoundLetter]] = {}
    for letter in letters:
        found.setdefault(letter.job, []).append(letter)
    return found


def untrue_letters(
    histories: JobHistories,
    snapshot: Snapshot,
    letters: dict[str, list[FoundLetter]],
    attempts: Limit,
    expectations: Expectations,
) -> Iterator[Violation]:
    """Find letters that are untrue: a job has at most one, with its own bytes, every error and a fitting reason.

    Where a job may have copies, each hand-out may have left a letter, and each copy knows its own errors only.
    """
    recorded = any(job_history.runs for job_history in histories.by_job.values())
    for job, found in letters.items():
        job_history = histories.by_job.get(job)
        if len(found) > _letters_allowed(job_history, one_copy=expectations.one_copy):
            yield Violation(job, f"{len(found)} dead letters of one job")
        elif snapshot.outcomes.get(job, "dead") != "dead":
            yield Violation(job, f"a dead letter, although it has ended: {snapshot.outcomes[job]}")
        elif (
            job_history is not None
            and job_history.replayed is not None
            and job_history.replayed.facts.get("letter") == found[0].id
        ):
            yield Violation(job, "was sent again, and its dead letter is still there")
        elif job_history is not None:
            copies = 0 if expectations.one_copy else job_history.other_copies
            lie = _lie(
                found[0], job_history, limit_of(attempts, job), recorded=recorded and expectations.marked, copies=copies
            )
            if lie is not None:
                yield Violation(job, lie)


def _letters_allowed(job_history: JobHistory | None, *, one_copy: bool) -> int:
    """Return one; of unreadable bytes as many as were sent; of copies as many as were handed out."""
    if job_history is None:
        return 1
    delivered = 0 if one_copy else len(job_history.events.get("received", ()))
    return max(1, job_history.copies if job_history.job.startswith(RAW) else 0, delivered)


def _lie(letter: FoundLetter, job_history: JobHistory, attempts: int, *, recorded: bool, copies: int) -> str | None:
    """Return what is wrong with a letter, judged by the history of its job; None: nothing."""
    sent = {entry.facts["envelope"] for entry in job_history.invokes if "envelope" in entry.facts}
    if sent and letter.envelope not in sent:
        return "its dead letter has other bytes than were enqueued"
    buried = [entry for entry in job_history.settled if entry.facts["verdict"] == "bury"]
    unsure = job_history.has_event("settle.uncertain")
    if buried and not unsure and letter.trail not in {entry.facts.get("trail", letter.trail) for entry in buried}:
        return "its dead letter has another trail than the one that it was buried with"
    if letter.errors is None:
        return "its dead letter has a trail that cannot be read"
    if letter.reason == "poison" and recorded and not job_history.runs:
        return '"poison", although it never started'
    if not job_history.runs:
        return None  # it died unrun, or nothing is known about its runs
    if letter.reason == "exhausted" and letter.attempts < attempts:
        return f'"exhausted" after {letter.attempts} of {attempts} attempts'
    if letter.reason == "poison" and not unsure and all(run.settled is not None for run in job_history.runs):
        return '"poison", although every start of it was settled'
    return _wrong_errors(letter, letter.errors, job_history, copies=copies)


def _wrong_errors(letter: FoundLetter, errors: tuple[str, ...], job_history: JobHistory, *, copies: int) -> str | None:
    """Compare the letter's errors with those of the runs, as sets with numbers.

    Every run that raised and was settled has to be there. A run that raised and was not settled may be there or not:
    its verdict may have been carried out. Runs that were interrupted may be there as timeouts.
    """
    raised = [run for run in job_history.runs if run.outcome == "raised" and not run.snoozed]
    possible = Counter(run.error for run in raised)
    needed = Counter(run.error for run in raised if run.settled in ("reschedule", "bury"))
    there = Counter(errors)
    if len(errors) < KEPT_ERRORS and not copies and needed - there:
        return f"its dead letter leaves out: {'; '.join((needed - there).elements())}"
    invented = [error for error in (there - possible).elements() if not error.startswith(TIMEOUT)]
    if invented and letter.reason != UNENCODABLE:
        return f"its dead letter has an error that no run raised: {'; '.join(invented)}"
    return None


def limit_of(limit: Limit, job: str) -> int:
    """Return the limit for this job."""
    return limit if isinstance(limit, int) else limit(job)
