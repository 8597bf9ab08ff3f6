"""The judge: what is wrong, by rules over the evidence alone.

The project's own checker judges what it can judge without seeing verdicts (lost, unexpected, stuck, early, overrun,
untrue letters); the rules here judge the rest. Doubles are no offence: jobs run at least once. But each of them has to
have a cause: a fault, or a lease that ran out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from benchmarks.soak.doubles import Double, cause_of, doubles
from benchmarks.soak.evidence import Evidence, JobRecord, Run, is_of
from benchmarks.soak.kinds import KINDS, kind_of
from benchmarks.soak.promises import PROMISES
from benchmarks.soak.sender import ANSWER_WITHIN
from taskcore.conformance.checking import EntryKind, Expectations, HistoryEntry, Report, check_history

__all__ = ["RULES", "Finding", "Judgement", "judge"]

TOLERANCE = 2.0  #: seconds that a busy machine may put between the look at a deadline and the first line of a function
TAKEN_WITHIN = 15.0  #: seconds within which a worker takes a job, also behind a backlog
LONG = 400.0  #: seconds in which everything has to happen at least once
HEARD_WITHIN = 30.0  #: seconds after which a caller that still waits has to know of an end


class Finding(NamedTuple):
    """One broken promise: which, of which job, and why."""

    rule: str
    job: str
    why: str


class Judgement(NamedTuple):
    """What the judge found."""

    findings: Sequence[Finding]
    doubles: Sequence[Double]


Rule: TypeAlias = Callable[[Evidence], Iterator[tuple[str, str]]]


def judge(evidence: Evidence, rules: Mapping[str, Rule] | None = None) -> Judgement:
    """Apply the rules; all of them unless some are named."""
    chosen = RULES if rules is None else rules
    findings = [Finding(name, job, why) for name, rule in chosen.items() for job, why in rule(evidence)]
    return Judgement(findings, list(doubles(evidence)))


# ── what the checker of the project can tell ─────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def _checked(evidence: Evidence) -> Report:
    """Hand the ledgers to the checker, as a history without verdicts.

    Two are left out while they have not started: at most once, because a worker may die between taking and starting
    it; and a job whose cancellation had no answer, because it may be taken back without a record.
    """
    history = sorted(_history(evidence), key=lambda entry: entry.at)
    return check_history(
        history,
        evidence.remains.snapshot,
        attempts=lambda job: kind_of(job).attempts,
        crashes=lambda job: kind_of(job).crashes,
        delta=evidence.delta,
        duplicates_allowed="unsettled",
        at_most_once=lambda job: kind_of(job).name == "once",
        expectations=Expectations(results=True, one_copy=evidence.one_copy),
    )


KINDS_OF_ENTRIES: Mapping[str, EntryKind] = {
    "sending": "invoke", "confirmed": "ok", "owner": "duplicate", "refused": "refused", "uncertain": "uncertain",
    "started": "start", "finished": "end",
}  # fmt: skip


def _history(evidence: Evidence) -> Iterator[HistoryEntry]:
    yield from _deaths(evidence)
    for record in evidence.jobs.values():
        if (record.kind.name == "once" or record.half_cancelled) and not record.runs:
            continue
        for line in record.lines:
            if line.what in KINDS_OF_ENTRIES:
                facts = {name: fact for name, fact in line.facts.items() if name not in {"expires", "key"}}
                yield HistoryEntry(line.at, line.who, KINDS_OF_ENTRIES[line.what], line.job, facts)


def _deaths(evidence: Evidence) -> Iterator[HistoryEntry]:
    """Yield the end of each process that a trouble has ended: a fault of a member ends all that it has then."""
    began: dict[str, float] = {}
    for line in evidence.all("started"):
        began.setdefault(line.who, line.at)
    for trouble in evidence.troubles:
        for who, at in began.items() if trouble.who and trouble.ends_it else ():
            if is_of(who, trouble.who) and at <= trouble.ended:
                yield HistoryEntry(trouble.ended, who, "died", "")


SILENT = "nothing says how it ended"  #: how the checker tells an end without an outcome, which it counts as a loss


def _lost(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that were confirmed and are nowhere."""
    yield from ((one.job, one.why) for one in _checked(evidence).lost if SILENT not in one.why)


def _stuck(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that are still in the queue when all was quiet for long."""
    yield from ((one.job, one.why) for one in _checked(evidence).stuck)


def _early(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that started before their delay was over, or before the time that they asked for themselves."""
    yield from ((one.job, one.why) for one in _checked(evidence).early)
    for record in evidence.jobs.values():
        asked: dict[int, list[float]] = defaultdict(list)
        for run in record.runs:
            if run.end is not None and "after" in run.end.facts:
                asked[run.copies].append(run.end.at + float(run.end.facts["after"]))
        for run in record.runs:
            due = min(asked.get(run.copies - 1, ()), default=0.0)
            if run.start.at < due - evidence.delta:
                yield record.id, f"started {due - run.start.at:.3f} s before the time that it had asked for"


def _unexpected(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that ran although nothing had stored them."""
    yield from ((one.job, one.why) for one in _checked(evidence).unexpected)


def _overrun(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs with more starts than attempts and crashes allow; poison that does not end as poison is one."""
    for one in _checked(evidence).overrun:
        if kind_of(one.job).name != "once":
            yield one.job, one.why


def _letters(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield dead letters that do not tell the truth; several of one job only where it may have several copies."""
    for one in _checked(evidence).dlq_bad:
        if evidence.one_copy or "dead letters of one job" not in one.why:
            yield one.job, one.why


# ── how each kind has to end ─────────────────────────────────────────────────────────────────────


def _silent(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that ended without a record of it."""
    yield from ((one.job, SILENT) for one in _checked(evidence).lost if SILENT in one.why)
    outcomes = evidence.remains.snapshot.outcomes
    for letter in evidence.remains.snapshot.letters:
        if letter.job in evidence.jobs and letter.job not in outcomes:
            yield letter.job, "has a dead letter, and no outcome"


def _wrong_end(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that ended as their kind cannot end, or with a result that no run of them returned."""
    snapshot = evidence.remains.snapshot
    reasons = {letter.job: letter.reason for letter in snapshot.letters}
    for job, outcome in snapshot.outcomes.items():
        record = evidence.jobs[job]
        if record.kind.name == "once" and outcome == "dead" and not record.returned:
            continue  # interrupted when the broker had forgotten it: see the rule of those that are gone
        if outcome not in record.kind.ends:
            yield job, f"ended as {outcome} ({reasons.get(job, 'no dead letter')}), may end as {record.kind.ends}"
        elif outcome == "dead" and not reasons.get(job, "").startswith(record.kind.reason):
            yield job, f"its dead letter says {reasons.get(job, 'nothing: there is none')!r}"
        elif outcome == "succeeded" and snapshot.results[job] not in _results(evidence, record):
            yield job, "its recorded result is none that a run of it returned"


def _results(evidence: Evidence, record: JobRecord) -> set[str]:
    """Return what its runs returned; for a key what the runs of all its jobs returned."""
    records = [record]
    if record.kind.name == "keyed":
        keys = _keys(record)
        records = [one for one in evidence.jobs.values() if one.kind.name == "keyed" and keys & _keys(one)]
    return {str(run.end.facts["result"]) for one in records for run in one.returned if run.end is not None}


def _keys(record: JobRecord) -> set[str]:
    return {str(line.facts["key"]) for line in record.lines if "key" in line.facts}


def _keyed(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield keys with more than one recorded outcome."""
    results: dict[str, dict[str, str]] = defaultdict(dict)
    for record in evidence.jobs.values():
        result = evidence.remains.snapshot.results.get(record.id)
        if record.kind.name == "keyed" and result is not None:
            for key in _keys(record):
                results[key][result] = record.id
    for key, found in results.items():
        if len(found) > 1:
            yield next(iter(found.values())), f"{key!r} has {len(found)} outcomes, of {', '.join(found.values())}"


def _twice(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that may start at most once and started more often."""
    for record in evidence.jobs.values():
        if record.kind.name == "once" and len(record.runs) > 1:
            yield record.id, f"started {len(record.runs)} times"


def _gone(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that may start at most once, never did or were interrupted, and no trouble did that."""
    outcomes = evidence.remains.snapshot.outcomes
    for record in evidence.jobs.values():
        is_dead = outcomes.get(record.id) == "dead" and not record.returned
        if record.kind.name != "once" or not record.confirmed or (record.runs and not is_dead):
            continue
        if record.id in outcomes and not is_dead:
            continue
        sent = record.lines[0].at
        whom = {trouble.who for trouble in evidence.troubles if trouble.who.startswith("worker")}
        if evidence.excuse(whom, sent, record.lines[-1].at + TAKEN_WITHIN) is None:
            yield record.id, f"was confirmed, {'interrupted' if is_dead else 'never started'}, and no fault explains it"


def _cancelled(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield jobs that started although their caller was told that they never would; or that ended otherwise."""
    for record in evidence.jobs.values():
        if not record.all("cancelled"):
            continue
        if record.runs:
            yield record.id, "started, and its caller was told that it never would"
        elif (outcome := evidence.remains.snapshot.outcomes.get(record.id)) != "cancelled":
            yield record.id, f"was cancelled, and is recorded as {outcome}"


def _late(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield starts after the deadline, unless their worker stood still between its look at the clock and the start."""
    for record in evidence.jobs.values():
        # A sender repeats what has no answer, and the deadline begins with the try that arrived: before its answer.
        sent = [line for line in record.lines if "expires" in line.facts]
        arrived = max((line.at for line in [*sent, *record.all("confirmed")]), default=0.0)
        deadlines = [arrived + float(line.facts["expires"]) for line in sent]
        for run in record.runs if deadlines else ():
            over = run.start.at - max(deadlines)
            blocked = evidence.blocked_since({run.start.who}, run.start.at) < run.start.at
            if over > TOLERANCE and not blocked and not evidence.excuse({run.start.who}, max(deadlines), run.start.at):
                yield record.id, f"started {over:.3f} s after its deadline"


def _unheard(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield answers that callers did not get although they were there, or that differ from what is recorded.

    Of several runs the last one counts: the end of one that lost its lease, with its connection, is not recorded.
    """
    snapshot = evidence.remains.snapshot
    for record in evidence.jobs.values():
        ends = [run.end.at for run in record.returned if run.end is not None]
        for line in record.all("unheard"):
            if ends and record.id in snapshot.outcomes and max(ends) < line.at - HEARD_WITHIN:
                yield (
                    record.id,
                    f"ended {line.at - max(ends):.1f} s before its caller gave up after {ANSWER_WITHIN:g} s",
                )
        for line in record.all("heard"):
            recorded = snapshot.results.get(record.id)
            if line.facts.get("result") != recorded:
                yield record.id, f"its caller heard {dict(line.facts)}, recorded is {recorded}"


# ── what is left, and what fell ──────────────────────────────────────────────────────────────────


def _left_behind(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield what broker or store still hold; a marker of a start only if no trouble cut the end of that copy short."""
    for job, what in evidence.remains.waste:
        record = evidence.jobs.get(job)
        run = None if record is None else _run_of_marker(record, what)
        if (
            record is None
            or run is None
            or cause_of(evidence, record, run, record.lines[-1].at + evidence.lease) is None
        ):
            yield job, what


def _run_of_marker(record: JobRecord, what: str) -> Run | None:
    """Find the last start of the copy that a marker names; of what is no marker, the last start at all."""
    marked = [run for run in record.runs if f"start/{record.id}/{run.copies} " in what]
    return (marked or record.runs or [None])[-1]


def _offences(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield processes that ended by themselves or did not end when asked, and errors that no call documents."""
    for line in evidence.all("offence"):
        yield line.job, f"{line.facts.get('call')}: {line.facts.get('error')}"


def _unexplained(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield doubles without a cause."""
    for double in doubles(evidence):
        if double.cause is None:
            yield double.job, "started again, and neither a fault nor the end of a lease explains it"


def _idle(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield what did not happen: a run that did nothing has proved nothing.

    Some job of each kind was confirmed; in a long run the supervisors did everything that they can.
    """
    confirmed = {record.kind.name for record in evidence.jobs.values() if record.confirmed}
    yield from (("", f"no job of the kind {name} was confirmed") for name in KINDS if name not in confirmed)
    if evidence.lines and evidence.lines[-1].at - evidence.lines[0].at > LONG:
        yield from (("", f"never: {line.facts['deed']}") for line in evidence.all("deed") if not line.facts["times"])


RULES: Mapping[str, Rule] = {
    "idle": _idle,
    "lost": _lost,
    "stuck": _stuck,
    "silent": _silent,
    "early": _early,
    "late": _late,
    "unexpected": _unexpected,
    "overrun": _overrun,
    "wrong end": _wrong_end,
    "untrue letter": _letters,
    "key twice": _keyed,
    "once twice": _twice,
    "once gone": _gone,
    "cancelled": _cancelled,
    "unheard": _unheard,
    "left behind": _left_behind,
    "unexplained": _unexplained,
    **PROMISES,
    "offence": _offences,
}
