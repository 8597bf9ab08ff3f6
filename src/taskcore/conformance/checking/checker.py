"""The checker: reads a history and what is left at the end, and says which promises were broken.

    report = judge(history, await collect(stage, [queue], ids), attempts=5, crashes=3, delta=0.1, time_limit=5.0)
    assert not report.broken, str(report)

A pure function over data, by sets, linear in the length of the history. It knows no worker and no client: it would
judge any other library's queue as well.

Nobody knows about *indeterminate* operations (no answer, or "uncertain") whether they happened. Both is allowed,
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
from taskcore.conformance.checking.expectations import Promised
from taskcore.conformance.checking.job_histories import Stories, Story, read
from taskcore.conformance.checking.letters import Limit, by_job, untrue_letters
from taskcore.conformance.checking.recorder import RAW
from taskcore.conformance.checking.report import Finding, Report
from taskcore.conformance.checking.snapshot import Final, Found
from taskcore.testing.history import Entry, History

__all__ = ["Finding", "Report", "judge"]

EVERYWHERE = Promised()
UNREAD = "?"  #: how events call a job whose envelope cannot be read
PATIENCE = 1.0  #: seconds by which a call may exceed its time limit before it counts as hanging


def judge(
    history: History | Iterable[Entry],
    final: Final,
    *,
    attempts: Limit,
    crashes: Limit,
    delta: float,
    duplicates_allowed: Excused = 0,
    effects_allowed: int | None = None,
    ordered: bool = False,
    at_most_once: Choice = False,
    time_limit: float = float("inf"),
    promised: Promised = EVERYWHERE,
) -> Report:
    """Count what was broken.

    :param attempts: how many attempts a job has; a number, or a function from job id to it.
    :param crashes: how many starts may kill their process; likewise.
    :param delta: seconds by which a start may be early or late, as the backend states.
    :param duplicates_allowed: how many runs more than necessary the injected faults excuse; 0 where none can.
        ``"unsettled"``: each run of a job that came to no verdict excuses one more run of that job, but none that began
        when the job was at its end; for tests that inject so many faults that nobody can count them.
    :param effects_allowed: likewise for effects; default: as many as runs.
    :param ordered: whether the queue promises that jobs start in the order in which they were enqueued.
    :param at_most_once: whether the jobs are acked before they start: one start at most, and it counts as the end; for
        all jobs, or a function from job id to it.
    :param time_limit: seconds that a call to the broker may take.
    :param promised: what else this broker and this store promise.
    """
    entries = history.entries if isinstance(history, History) else list(history)
    stories = read(entries)
    all_of_them = stories.by_job.values()
    letters = by_job(final.letters)
    by_numbers = isinstance(duplicates_allowed, int)
    repeated = {
        story.job: spare
        for story in all_of_them
        if (spare := spare_runs(story) - (0 if by_numbers else excused_runs(story, one_copy=promised.one_copy))) > 0
    }
    allowed = duplicates_allowed if isinstance(duplicates_allowed, int) else 0
    effects = {key: len(done) - 1 for key, done in stories.effects.items() if len(done) > 1}
    return Report(
        lost=list(_lost(stories, final, letters, at_most_once, results=promised.results)),
        unexpected=list(_unexpected(all_of_them)),
        duplicated=[Finding(job, f"{spare} run(s) too many") for job, spare in repeated.items()],
        effects=[Finding(key, f"done {spare + 1} times") for key, spare in effects.items()],
        outcomes=list(outcomes(stories, final, promised.key_window)),
        stuck=list(_stuck(final)),
        early=list(_early(all_of_them, delta, one_copy=promised.one_copy)),
        late=list(_late(all_of_them, delta)),
        misordered=list(_misordered(all_of_them)) if ordered else [],
        unfenced=list(unfenced(all_of_them)) if promised.fenced else [],
        overrun=list(overrun(stories, attempts, crashes, at_most_once, one_copy=promised.one_copy)),
        silent=list(_silent(stories, final)),
        hang=list(_hang(stories, time_limit)),
        dlq_bad=list(untrue_letters(stories, final, letters, attempts, promised)),
        recovered=[story.job for story in all_of_them if story.runs and not story.confirmed and not story.refused],
        duplicate_runs=sum(repeated.values()),
        duplicate_effects=sum(effects.values()),
        allowed=(allowed, allowed if effects_allowed is None else effects_allowed),
        stories={story.job: story.entries for story in all_of_them},
    )


# ── C1: no loss ──────────────────────────────────────────────────────────────────────────────────


def _lost(
    stories: Stories, final: Final, letters: dict[str, list[Found]], at_most_once: Choice, *, results: bool
) -> Iterator[Finding]:
    """Confirmed, and at the end neither done nor dead nor taken back nor expired nor still there.

    "Done" asks for a run that *returned*. A job whose only run raised and that is gone without a dead letter is lost,
    although it did end: nobody will ever learn of it.
    """
    here = {job for left in final.queues.values() for job in left.ready | left.scheduled | left.leased}
    unnamed = sum(left.unnamed for left in final.queues.values())
    for story in stories.by_job.values():
        job = story.job
        if not story.confirmed or job in here or job in letters or _is_taken_away(stories, story):
            continue
        once = choice_of(at_most_once, job)
        if _is_over(story, final, once=once, died=stories.died):
            given_up = story.cancelled is not None and story.cancelled.who in stories.died
            if results and not once and not given_up and job not in final.endings:
                yield Finding(job, "is at its end, and nothing says how it ended")
            continue
        emptied = stories.emptied.get(str(story.invokes[-1].facts.get("queue"))) if story.invokes else None
        if emptied is not None and emptied >= story.invokes[0].at:
            continue  # somebody purged its queue, and a purge does not say whom it met
        ran = f"{len(story.runs)} run(s), none of which returned" if story.runs else "never started"
        doubt = f"; it may be one of {unnamed} jobs that are left and cannot be named" if unnamed else ""
        yield Finding(job, f"enqueued, {ran}, no dead letter, not in any queue{doubt}")


def _is_over(story: Story, final: Final, *, once: bool, died: set[str]) -> bool:
    """Whether the job came to one of the ends that the contract knows, except a dead letter that is still there.

    An ending "dead" is no end without its letter: the letter is what a person has to find.
    """
    acked = any(entry.facts["verdict"] == "ack" for entry in story.settled)
    unsure = any(entry.facts.get("verdict") == "ack" for entry in story.events.get("settle.uncertain", ()))
    return (
        any(run.outcome == "returned" for run in story.runs)
        or (once and (bool(story.runs) or acked or unsure or story.held_by(died)))
        or final.endings.get(story.job) in ("succeeded", "cancelled", "expired")
        or (acked and story.told("job.expired", "job.duplicate", "job.skipped", "job.cancelled"))  # unrun, and said why
        or story.cancelled is not None  # taken back
    )


def _is_taken_away(stories: Stories, story: Story) -> bool:
    """Whether somebody took it, or perhaps did, so that nobody has to know how it ended."""
    return (
        story.told("remove.uncertain", "replay.uncertain", "dropped")
        or story.replayed is not None  # dead, and then a job of another id …
        or any(  # … or perhaps, for who wanted it was killed before he had an answer
            name in stories.by_job and stories.by_job[name].unanswered(stories.died)
            for name in stories.replays.get(story.job, ())
        )
    )


# ── C2, C14: nothing is invented ─────────────────────────────────────────────────────────────────


def _unexpected(stories: Iterable[Story]) -> Iterator[Finding]:
    """Started without an enqueue that may have stored it; or after it was taken back; or other bytes than were sent."""
    for story in stories:
        sent = {entry.facts["envelope"] for entry in story.invokes if "envelope" in entry.facts}
        came = {entry.facts["envelope"] for entry in story.events.get("received", ()) if "envelope" in entry.facts}
        if story.runs and not story.invokes:
            yield Finding(story.job, "started, and nobody enqueued it")
        elif story.runs and story.refused:
            yield Finding(story.job, "started, although its enqueue was refused: surely not stored")
        elif sent and came - sent:
            yield Finding(story.job, "was handed out with other bytes than were enqueued")
        elif any(run.behind == "cancelled" for run in story.runs):
            yield Finding(story.job, "started after it was taken back")


# ── C4: progress ─────────────────────────────────────────────────────────────────────────────────


def _stuck(final: Final) -> Iterator[Finding]:
    """Still there when everything is quiet, also if it has ended: at rest a job is in exactly one place."""
    for queue, left in final.queues.items():
        for place, jobs in (("ready", left.ready), ("scheduled", left.scheduled), ("leased", left.leased)):
            for job in sorted(jobs):
                ended = f", although it has ended: {final.endings[job]}" if job in final.endings else ""
                yield Finding(job, f'still {place} in queue "{queue}"{ended}')
        if left.unnamed:
            yield Finding("?", f'{left.unnamed} job(s) left in queue "{queue}" that cannot be named')


# ── C15, C16, C17: time ──────────────────────────────────────────────────────────────────────────


def _early(stories: Iterable[Story], delta: float, *, one_copy: bool) -> Iterator[Finding]:
    """The first start before the delay was over, or a later one before the wait that a verdict asked for.

    The broker counts from when it got the call, which is never before the call began; so the beginning of the call
    gives a bound that is right on any clock. Of several enqueues (repeated after an uncertain one) any may be the one
    that was stored: the earliest due time counts. And a verdict makes only its own copy wait.
    """
    for story in stories:
        due = min((entry.at + float(entry.facts.get("delay", 0.0)) for entry in story.invokes), default=0.0)
        for run in story.runs:
            # Only the starts behind a verdict wait for it. A start that was recorded before it was carried out may be
            # a stale worker's.
            for entry in story.settled[: run.verdicts if one_copy or not story.other_copies else 0]:
                if entry.facts["verdict"] == "reschedule":
                    began = float(entry.facts.get("began", entry.at))
                    due = max(due, began + float(entry.facts.get("after", 0.0)))
            if run.start.at < due - delta:
                yield Finding(story.job, f"started {due - run.start.at:.3f} s too early")
                break


def _late(stories: Iterable[Story], delta: float) -> Iterator[Finding]:
    """A start after the deadline; the latest deadline, if there were several enqueues of which any may have counted."""
    for story in stories:
        deadlines = [entry.at + float(entry.facts.get("expires", float("inf"))) for entry in story.invokes]
        deadline = max(deadlines, default=float("inf"))
        over = max((run.start.at - deadline for run in story.runs), default=0.0)
        if over > delta:
            yield Finding(story.job, f"started {over:.3f} s after its deadline")


# ── C11: order, where it is promised ─────────────────────────────────────────────────────────────


def _misordered(stories: Iterable[Story]) -> Iterator[Finding]:
    """First starts against enqueues, for each queue (or each fact ``order`` of an invoke).

    Enqueues that overlapped have no order among them. So B is misordered if a job started before it whose enqueue
    *began* after B's was *answered*. One pass in the order of starts, with the latest beginning seen so far.
    """
    groups: dict[str, list[tuple[float, float, float, str]]] = {}
    for story in stories:
        answered = [entry.at for entry in story.answers if entry.kind == "ok"]
        if not (story.runs and story.invokes and answered):
            continue
        invoke = story.invokes[0]
        name = str(invoke.facts.get("order", invoke.facts.get("queue", "")))
        groups.setdefault(name, []).append((story.runs[0].start.at, invoke.at, answered[0], story.job))
    for group in groups.values():
        latest, ahead = float("-inf"), ""
        for _, invoked, answered_at, job in sorted(group):
            if latest > answered_at:
                yield Finding(job, f"started behind {ahead}, which was enqueued later")
            if invoked > latest:
                latest, ahead = invoked, job


# ── C19: nothing silent ──────────────────────────────────────────────────────────────────────────


def _silent(stories: Stories, final: Final) -> Iterator[Finding]:
    """What happened and has to be told, against what was told by the one whom it happened to.

    Only of those who were listened to, and not of the killed: the dead tell nothing.
    """
    alive = stories.listening - stories.died
    for story in stories.by_job.values():
        for who, what, names in _tellable(story):
            if who in alive and not story.told(*names, who=who) and not _told_unread(stories, story, who, names):
                yield Finding(story.job, f"{what}, and {who} told nothing ({' or '.join(names)})")
                break
        else:
            expired = final.endings.get(story.job) == "expired"
            if expired and alive and not stories.died and not story.told("job.expired"):
                yield Finding(story.job, "expired, and nobody told it (job.expired)")


def _told_unread(stories: Stories, story: Story, who: str, names: tuple[str, ...]) -> bool:
    """Whether it was told about bytes that nobody could read, under the name that such jobs have in events."""
    unread = stories.by_job.get(UNREAD)
    return story.job.startswith(RAW) and unread is not None and unread.told(*names, who=who)


def _tellable(story: Story) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Whom, what, and the events that would tell it."""
    for entry in story.answers:
        # A call that its own caller gave up on needs no event: who stopped asking knows that there is no answer.
        given_up = entry.facts.get("why") in ("CancelledError", "Cancelled")
        if entry.kind in ("duplicate", "uncertain") and "via" not in entry.facts and not given_up:
            yield entry.who, f"its enqueue was {entry.kind}", (f"job.{entry.kind}",)
    for entry in story.entries:
        if entry.kind == "lost":
            yield entry.who, "its lease was lost", ("job.lost", "settle.unconfirmed")
    for entry in story.settled:
        if entry.facts["verdict"] == "bury":
            yield entry.who, "it was buried", ("job.buried",)


# ── C22: no hang ─────────────────────────────────────────────────────────────────────────────────


def _hang(stories: Stories, time_limit: float) -> Iterator[Finding]:
    """Calls that took longer than their limit, and enqueues that the living never got an answer to."""
    for story in stories.by_job.values():
        worst = max((float(entry.facts.get("took", 0.0)) for entry in story.entries), default=0.0)
        if worst > time_limit + PATIENCE:
            yield Finding(story.job, f"a call about it took {worst:.3f} s, its limit is {time_limit:g} s")
            continue
        for who, number in Counter(entry.who for entry in story.invokes).items():
            answered = sum(entry.who == who for entry in story.answers)
            if answered < number and who not in stories.died:
                yield Finding(story.job, f"its enqueue was never answered, and {who} is alive")
