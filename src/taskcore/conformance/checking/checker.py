"""The checker: reads a history and what is left at the end, and says which promises were broken.

    report = judge(history, await collect(harness, [queue], ids), attempts=5, crashes=3, delta=0.1, time_limit=5.0)
    assert not report.broken, str(report)

A pure function over data, by sets, linear in the length of the history. It knows no worker and no client: it would
judge any other library's queue as well.

Whether an *indeterminate* operation (no answer, or "uncertain") happened is unknown. Both is allowed,
always: an uncertain enqueue may run or not, an uncertain verdict may have been carried out or not. Taking them for
failed would make false alarms; taking them for done would hide losses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from taskcore.conformance.checking.counting import (
    Choice,
    Excused,
    choice_of,
    excused_runs,
    outcomes,
    overrun,
    spare_runs,
    unfenced,
)
from taskcore.conformance.checking.expectations import Expectations
from taskcore.conformance.checking.job_histories import JobHistories, JobHistory, read
from taskcore.conformance.checking.letters import Limit, by_job, untrue_letters
from taskcore.conformance.checking.recorder import RAW
from taskcore.conformance.checking.report import Report, Violation
from taskcore.conformance.checking.snapshot import FoundLetter, Snapshot
from taskcore.testing.history import History, HistoryEntry

__all__ = ["Report", "Violation", "check_history"]

DEFAULT_EXPECTATIONS = Expectations()
UNREADABLE_ID = "?"  #: how events call a job whose envelope cannot be read
HANG_TOLERANCE = 1.0  #: seconds by which a call may exceed its time limit before it counts as hanging


def check_history(
    history: History | Iterable[HistoryEntry],
    snapshot: Snapshot,
    *,
    attempts: Limit,
    crashes: Limit,
    delta: float,
    duplicates_allowed: Excused = 0,
    effects_allowed: int | None = None,
    ordered: bool = False,
    at_most_once: Choice = False,
    time_limit: float = float("inf"),
    expectations: Expectations = DEFAULT_EXPECTATIONS,
) -> Report:
    """Count what was broken.

    :param attempts: how many attempts a job has; a number, or a function from job id to it.
    :param crashes: how many starts may kill their process, in the same form.
    :param delta: seconds by which a start may be early or late, as the backend states.
    :param duplicates_allowed: how many runs more than necessary the injected faults excuse; 0 where none can.
        ``"unsettled"``: each run of a job that came to no verdict excuses one more run of that job, but none that began
        when the job was at its end; for tests that inject more faults than can be counted.
    :param effects_allowed: the same for effects; default: as many as runs.
    :param ordered: whether the queue promises that jobs start in the order in which they were enqueued.
    :param at_most_once: whether the jobs are acked before they start: one start at most, and it counts as the end; for
        all jobs, or a function from job id to it.
    :param time_limit: seconds that a call to the broker may take.
    :param expectations: what else this broker and this store promise.
    """
    entries = history.entries if isinstance(history, History) else list(history)
    histories = read(entries)
    all_of_them = histories.by_job.values()
    letters = by_job(snapshot.letters)
    repeated = _repeated(all_of_them, duplicates_allowed, one_copy=expectations.one_copy)
    allowed = duplicates_allowed if isinstance(duplicates_allowed, int) else 0
    effects = {key: len(done) - 1 for key, done in histories.effects.items() if len(done) > 1}
    return Report(
        lost=list(_lost(histories, snapshot, letters, at_most_once, results=expectations.results)),
        unexpected=list(_unexpected(all_of_them)),
        duplicated=[Violation(job, f"{spare} run(s) too many") for job, spare in repeated.items()],
        effects=[Violation(key, f"done {spare + 1} times") for key, spare in effects.items()],
        outcomes=list(outcomes(histories, snapshot, expectations.key_window)),
        stuck=list(_stuck(snapshot)),
        early=list(_early(all_of_them, delta, one_copy=expectations.one_copy)),
        late=list(_late(all_of_them, delta)),
        misordered=list(_misordered(all_of_them)) if ordered else [],
        unfenced=list(unfenced(all_of_them)) if expectations.fenced else [],
        overrun=list(overrun(histories, attempts, crashes, at_most_once, one_copy=expectations.one_copy)),
        silent=list(_silent(histories, snapshot)),
        hang=list(_hang(histories, time_limit)),
        dlq_bad=list(untrue_letters(histories, snapshot, letters, attempts, expectations)),
        recovered=[each.job for each in all_of_them if each.runs and not each.confirmed and not each.refused],
        duplicate_runs=sum(repeated.values()),
        duplicate_effects=sum(effects.values()),
        allowed=(allowed, allowed if effects_allowed is None else effects_allowed),
        histories={job_history.job: job_history.entries for job_history in all_of_them},
    )


def _repeated(histories: Iterable[JobHistory], duplicates_allowed: Excused, *, one_copy: bool) -> dict[str, int]:
    """Count, for each job, the runs that neither its outcomes nor its unsettled runs explain."""
    by_numbers = isinstance(duplicates_allowed, int)
    excused = ((each, 0 if by_numbers else excused_runs(each, one_copy=one_copy)) for each in histories)
    return {each.job: spare for each, number in excused if (spare := spare_runs(each) - number) > 0}


# ── C1: no loss ──────────────────────────────────────────────────────────────────────────────────


def _lost(
    histories: JobHistories,
    snapshot: Snapshot,
    letters: dict[str, list[FoundLetter]],
    at_most_once: Choice,
    *,
    results: bool,
) -> Iterator[Violation]:
    """Yield jobs that were confirmed, and at the end are not done, dead, taken back, expired or still there.

    "Done" asks for a run that *returned*. A job whose only run raised and that is gone without a dead letter is lost,
    although it did end, because no record tells of it.
    """
    here = {job for left in snapshot.queues.values() for job in left.ready | left.scheduled | left.leased}
    unnamed = sum(left.unnamed for left in snapshot.queues.values())
    for job_history in histories.by_job.values():
        job = job_history.job
        if not job_history.confirmed or job in here or job in letters or _is_taken_away(histories, job_history):
            continue
        once = choice_of(at_most_once, job)
        if _is_over(job_history, snapshot, once=once, died=histories.died):
            given_up = job_history.cancelled is not None and job_history.cancelled.who in histories.died
            if results and not once and not given_up and job not in snapshot.outcomes:
                yield Violation(job, "is at its end, and nothing says how it ended")
            continue
        emptied = (
            histories.emptied.get(str(job_history.invokes[-1].facts.get("queue"))) if job_history.invokes else None
        )
        if emptied is not None and emptied >= job_history.invokes[0].at:
            continue  # its queue was purged, and a purge does not say which jobs it removed
        ran = f"{len(job_history.runs)} run(s), none of which returned" if job_history.runs else "never started"
        doubt = f"; it may be one of {unnamed} jobs that are left and cannot be named" if unnamed else ""
        yield Violation(job, f"enqueued, {ran}, no dead letter, not in any queue{doubt}")


def _is_over(job_history: JobHistory, snapshot: Snapshot, *, once: bool, died: set[str]) -> bool:
    """Tell whether the job came to an end that the guarantees know, except a dead letter that is still there.

    An outcome "dead" is no end without its letter: the letter is what a person has to find.
    """
    acked = any(entry.facts["verdict"] == "ack" for entry in job_history.settled)
    unsure = any(entry.facts.get("verdict") == "ack" for entry in job_history.events.get("settle.uncertain", ()))
    return (
        any(run.outcome == "returned" for run in job_history.runs)
        or (once and (bool(job_history.runs) or acked or unsure or job_history.held_by(died)))
        or snapshot.outcomes.get(job_history.job) in ("succeeded", "cancelled", "expired")
        or (
            acked and job_history.has_event("job.expired", "job.duplicate", "job.skipped", "job.cancelled")
        )  # unrun, and said why
        or job_history.cancelled is not None  # taken back
    )


def _is_taken_away(histories: JobHistories, job_history: JobHistory) -> bool:
    """Tell whether it was taken away, or perhaps was, so its outcome need not be known."""
    return (
        job_history.has_event("remove.uncertain", "replay.uncertain", "dropped")
        or job_history.replayed is not None  # dead, and then a job of another id …
        or any(  # … or perhaps: the caller was killed before the answer
            name in histories.by_job and histories.by_job[name].unanswered(histories.died)
            for name in histories.replays.get(job_history.job, ())
        )
    )


# ── C2, C14: nothing is invented ─────────────────────────────────────────────────────────────────


def _unexpected(histories: Iterable[JobHistory]) -> Iterator[Violation]:
    """Yield jobs that nothing called for.

    They started without an enqueue that may have stored them, or after they were taken back; or they were handed out
    with other bytes than were sent.
    """
    for job_history in histories:
        sent = {entry.facts["envelope"] for entry in job_history.invokes if "envelope" in entry.facts}
        came = {
            entry.facts["envelope"] for entry in job_history.events.get("received", ()) if "envelope" in entry.facts
        }
        if job_history.runs and not job_history.invokes:
            yield Violation(job_history.job, "started, and was not enqueued")
        elif job_history.runs and job_history.refused:
            yield Violation(job_history.job, "started, although its enqueue was refused: surely not stored")
        elif sent and came - sent:
            yield Violation(job_history.job, "was handed out with other bytes than were enqueued")
        elif any(run.behind == "cancelled" for run in job_history.runs):
            yield Violation(job_history.job, "started after it was taken back")


# ── C4: progress ─────────────────────────────────────────────────────────────────────────────────


def _stuck(snapshot: Snapshot) -> Iterator[Violation]:
    """Yield jobs that are still there when all is quiet, also if ended: at rest a job is in exactly one place."""
    for queue, left in snapshot.queues.items():
        for place, jobs in (("ready", left.ready), ("scheduled", left.scheduled), ("leased", left.leased)):
            for job in sorted(jobs):
                ended = f", although it has ended: {snapshot.outcomes[job]}" if job in snapshot.outcomes else ""
                yield Violation(job, f'still {place} in queue "{queue}"{ended}')
        if left.unnamed:
            yield Violation("?", f'{left.unnamed} job(s) left in queue "{queue}" that cannot be named')


# ── C15, C16, C17: time ──────────────────────────────────────────────────────────────────────────


def _early(histories: Iterable[JobHistory], delta: float, *, one_copy: bool) -> Iterator[Violation]:
    """Yield jobs whose first start came before their delay was over, or a later one before the wait of a verdict.

    The broker counts from when it got the call, which is never before the call began; so the beginning of the call
    gives a bound that is right on any clock. Of several enqueues (repeated after an uncertain one) any may be the one
    that was stored: the earliest due time counts. And a verdict makes only its own copy wait.
    """
    for job_history in histories:
        due = min((entry.at + float(entry.facts.get("delay", 0.0)) for entry in job_history.invokes), default=0.0)
        for run in job_history.runs:
            # Only the starts behind a verdict wait for it. A start that was recorded before it was carried out may be
            # a stale worker's.
            for entry in job_history.settled[: run.verdicts if one_copy or not job_history.other_copies else 0]:
                if entry.facts["verdict"] == "reschedule":
                    began = float(entry.facts.get("began", entry.at))
                    due = max(due, began + float(entry.facts.get("after", 0.0)))
            if run.start.at < due - delta:
                yield Violation(job_history.job, f"started {due - run.start.at:.3f} s too early")
                break


def _late(histories: Iterable[JobHistory], delta: float) -> Iterator[Violation]:
    """Yield jobs that started after their deadline.

    Of several enqueues, any of which may have counted, the latest deadline holds.
    """
    for job_history in histories:
        deadlines = [entry.at + float(entry.facts.get("expires", float("inf"))) for entry in job_history.invokes]
        deadline = max(deadlines, default=float("inf"))
        over = max((run.start.at - deadline for run in job_history.runs), default=0.0)
        if over > delta:
            yield Violation(job_history.job, f"started {over:.3f} s after its deadline")


# ── C11: order, where it is promised ─────────────────────────────────────────────────────────────


def _misordered(histories: Iterable[JobHistory]) -> Iterator[Violation]:
    """Compare first starts with enqueues, for each queue (or each fact ``order`` of an invoke).

    Enqueues that overlapped have no order among them. So B is misordered if a job started before it whose enqueue
    *began* after B's was *answered*. One pass in the order of starts, with the latest beginning seen so far.
    """
    groups: dict[str, list[tuple[float, float, float, str]]] = {}
    for job_history in histories:
        answered = [entry.at for entry in job_history.answers if entry.kind == "ok"]
        if not (job_history.runs and job_history.invokes and answered):
            continue
        invoke = job_history.invokes[0]
        name = str(invoke.facts.get("order", invoke.facts.get("queue", "")))
        groups.setdefault(name, []).append((job_history.runs[0].start.at, invoke.at, answered[0], job_history.job))
    for group in groups.values():
        latest, ahead = float("-inf"), ""
        for _, invoked, answered_at, job in sorted(group):
            if latest > answered_at:
                yield Violation(job, f"started behind {ahead}, which was enqueued later")
            if invoked > latest:
                latest, ahead = invoked, job


# ── C19: nothing silent ──────────────────────────────────────────────────────────────────────────


def _silent(histories: JobHistories, snapshot: Snapshot) -> Iterator[Violation]:
    """Yield what happened and has to be told, without an event of the actor that it happened to.

    Only actors that were listened to count, and that were not killed: a dead process tells nothing.
    """
    alive = histories.listening - histories.died
    for job_history in histories.by_job.values():
        for who, what, names in _reportable(job_history):
            if (
                who in alive
                and not job_history.has_event(*names, who=who)
                and not _has_unread_event(histories, job_history, who, names)
            ):
                yield Violation(job_history.job, f"{what}, and {who} told nothing ({' or '.join(names)})")
                break
        else:
            expired = snapshot.outcomes.get(job_history.job) == "expired"
            if expired and alive and not histories.died and not job_history.has_event("job.expired"):
                yield Violation(job_history.job, "expired, without an event (job.expired)")


def _has_unread_event(histories: JobHistories, job_history: JobHistory, who: str, names: tuple[str, ...]) -> bool:
    """Tell whether an event reported it as unreadable bytes, under the name of such jobs in events."""
    unread = histories.by_job.get(UNREADABLE_ID)
    return job_history.job.startswith(RAW) and unread is not None and unread.has_event(*names, who=who)


def _reportable(job_history: JobHistory) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the actor, what happened to it, and the events that would report it."""
    for entry in job_history.answers:
        # A call that its own caller gave up on needs no event: the caller knows that there is no answer.
        given_up = entry.facts.get("why") in ("CancelledError", "Cancelled")
        if entry.kind in ("duplicate", "uncertain") and "via" not in entry.facts and not given_up:
            yield entry.who, f"its enqueue was {entry.kind}", (f"job.{entry.kind}",)
    for entry in job_history.entries:
        if entry.kind == "lost":
            yield entry.who, "its lease was lost", ("job.lost", "settle.unconfirmed")
    for entry in job_history.settled:
        if entry.facts["verdict"] == "bury":
            yield entry.who, "it was buried", ("job.buried",)


# ── C22: no hang ─────────────────────────────────────────────────────────────────────────────────


def _hang(histories: JobHistories, time_limit: float) -> Iterator[Violation]:
    """Yield calls that took longer than their limit, and enqueues of living senders that were never answered."""
    for job_history in histories.by_job.values():
        worst = max((float(entry.facts.get("took", 0.0)) for entry in job_history.entries), default=0.0)
        if worst > time_limit + HANG_TOLERANCE:
            yield Violation(job_history.job, f"a call about it took {worst:.3f} s, its limit is {time_limit:g} s")
            continue
        for who, number in Counter(entry.who for entry in job_history.invokes).items():
            answered = sum(entry.who == who for entry in job_history.answers)
            if answered < number and who not in histories.died:
                yield Violation(job_history.job, f"its enqueue was never answered, and {who} is alive")
