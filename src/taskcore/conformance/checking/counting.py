"""How often a job may run, end and have an outcome: duplicates, limits, fencing, keys (C3, C7, C9, C10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Literal, TypeAlias

from taskcore.conformance.checking.job_histories import JobHistories, JobHistory, ObservedRun
from taskcore.conformance.checking.letters import Limit, limit_of
from taskcore.conformance.checking.report import Violation
from taskcore.conformance.checking.snapshot import Snapshot

__all__ = ["Choice", "Excused", "choice_of", "excused_runs", "outcomes", "overrun", "spare_runs", "unfenced"]

Choice: TypeAlias = bool | Callable[[str], bool]  #: for all jobs, or a function from job id to it
Excused: TypeAlias = int | Literal["unsettled"]  #: a number, or as many as runs came to no verdict


def choice_of(choice: Choice, job: str) -> bool:
    """Return the choice for this job."""
    return choice if isinstance(choice, bool) else choice(job)


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────


def spare_runs(job_history: JobHistory) -> int:
    """Count the runs that nothing called for: one is due, and one more for each run that raised or was interrupted.

    Except where the job was buried for it: nothing calls for a run of a dead job. A run that returned and was settled
    with a retry (its key had been lost) calls for another one, too.

    A run that a crash cut short calls for another one as well, but that one is what "duplicate" means: the first may
    have had its effect already. So crashes show up here, and a test says how many it caused.
    """
    return len(job_history.runs) - 1 - sum(_calls_for_another(run) for run in job_history.runs)


def excused_runs(job_history: JobHistory, *, one_copy: bool) -> int:
    """Count those excused by runs that came to no verdict, so that their job had to be handed out again.

    Whatever began when the job was surely at its end is not excused by anything, except by another copy of it.
    """
    open_ends = sum(run.settled is None for run in job_history.runs)
    behind = sum(run.behind in ("ack", "bury") for run in job_history.runs)
    return open_ends - max(behind - (0 if one_copy else job_history.other_copies), 0)


def _calls_for_another(run: ObservedRun) -> bool:
    if run.outcome in ("raised", "interrupted"):
        return run.settled != "bury"
    return run.settled == "reschedule"


# ── C3, C9: bounded ──────────────────────────────────────────────────────────────────────────────


def overrun(
    histories: JobHistories, attempts: Limit, crashes: Limit, at_most_once: Choice, *, one_copy: bool
) -> Iterator[Violation]:
    """Yield jobs with more starts than attempts and crashes. Starts that were given back and snoozes use neither.

    Where a job may have copies, each of them has its own.
    """
    for job_history in histories.by_job.values():
        if choice_of(at_most_once, job_history.job):
            if len(job_history.runs) > (1 if one_copy else max(job_history.copies, 1)):
                yield Violation(job_history.job, f"started {len(job_history.runs)} times, at most once was asked for")
            continue
        copies = 1 if one_copy else 1 + job_history.other_copies
        limit, deaths = copies * limit_of(attempts, job_history.job), copies * limit_of(crashes, job_history.job)
        free = sum(_is_free(run) for run in job_history.runs)
        failed = sum(
            run.outcome == "raised" and not run.snoozed and run.settled is not None for run in job_history.runs
        )
        deadly = (
            0
            if job_history.has_event("settle.uncertain")
            else sum(_is_deadly(run, histories.died) for run in job_history.runs)
        )
        given = f" ({free} of them free)" if free else ""
        if len(job_history.runs) - free > limit + deaths:
            yield Violation(
                job_history.job, f"started {len(job_history.runs)} times{given}, allowed are {limit + deaths}"
            )
        elif failed > limit:
            yield Violation(job_history.job, f"failed {failed} times, it has {limit} attempts")
        elif deadly > deaths:
            yield Violation(job_history.job, f"{deadly} starts died or lost their lease, {deaths} are allowed")


def _is_free(run: ObservedRun) -> bool:
    """Tell whether it was given back, snoozed, or done in vain because its key had been lost."""
    return (
        run.snoozed
        or (run.outcome == "interrupted" and run.settled == "release")
        or (run.outcome == "returned" and run.settled == "reschedule")
    )


def _is_deadly(run: ObservedRun, died: set[str]) -> bool:
    """Tell whether it never came to a verdict, because its worker died or lost the lease."""
    return run.settled is None and (run.start.who in died or (run.verdict is not None and run.verdict.kind == "lost"))


# ── C7: fencing ──────────────────────────────────────────────────────────────────────────────────


def unfenced(histories: Iterable[JobHistory]) -> Iterator[Violation]:
    """Yield verdicts that were carried out although another worker had been handed the job when their call began."""
    for job_history in histories:
        received = job_history.events.get("received", ())
        for entry, number in zip(job_history.settled, job_history.deliveries_before, strict=True):
            began = float(entry.facts.get("began", entry.at))
            earlier = [one.who for one in received[:number] if one.at <= began]
            if earlier and entry.who in earlier and earlier[-1] != entry.who:
                yield Violation(job_history.job, f"settled by {entry.who} after {earlier[-1]} had been handed it")
                break


# ── C10: one outcome for a key ───────────────────────────────────────────────────────────────────


def outcomes(histories: JobHistories, snapshot: Snapshot, window: float | None) -> Iterator[Violation]:
    """Yield two jobs with one key that ended with different values, surely within the key's window.

    The history does not say when an outcome was committed: not before the first run that returned, and not after the
    last entry of the job.
    """
    if window is None:
        return
    by_key: dict[tuple[str, str], list[JobHistory]] = {}
    for job_history in histories.by_job.values():
        for entry in job_history.invokes[:1]:
            if "key" in entry.facts and job_history.job in snapshot.results and job_history.returned_at is not None:
                by_key.setdefault((str(entry.facts.get("task")), str(entry.facts["key"])), []).append(job_history)
    for (task, key), group in by_key.items():
        for one, other in combinations(group, 2):
            first = min(one.returned_at or 0.0, other.returned_at or 0.0)
            last = max(one.entries[-1].at, other.entries[-1].at)
            if last - first < window and snapshot.results[one.job] != snapshot.results[other.job]:
                yield Violation(other.job, f"another value than {one.job} has, for the same key {key} of {task}")
                break
