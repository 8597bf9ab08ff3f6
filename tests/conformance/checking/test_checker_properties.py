"""Properties of the checker: any history of a correct queue passes, a mutated one is caught."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore.conformance.checking import Left, Report, Snapshot, check_history
from taskcore.testing.history import HistoryEntry
from tests.support.toy_queue import ATTEMPTS, CRASHES, ToyQueue


def play(choose: Callable[[Any], Any], *, jobs: int = 4, calm: bool = False) -> ToyQueue:
    """Run a correct queue until it is empty."""
    queue = ToyQueue(choose, calm=calm)
    for number in range(jobs):
        queue.enqueue(f"job-{number}")
    queue.drain()
    return queue


def judge_toy(entries: list[HistoryEntry], final: Snapshot, excused: int = 0, **options: Any) -> Report:
    """Check a history with the toy's own limits."""
    limits: dict[str, Any] = {"attempts": ATTEMPTS, "crashes": CRASHES, "delta": 0.0, "time_limit": 5.0}
    return check_history(
        sorted(entries, key=lambda one: one.at), final, duplicates_allowed=excused, **(limits | options)
    )


@given(st.data(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_correct_queue_passes(data: st.DataObject, calm: bool) -> None:
    """Whatever happens to a correct queue, with crashes, lost replies and errors, breaks nothing."""
    queue = play(lambda options: data.draw(st.sampled_from(options)), calm=calm)
    report = judge_toy(list(queue.history.entries), queue.final, queue.excused, ordered=calm)
    assert not report.broken, str(report)


def _without(entries: list[HistoryEntry], job: str, *kinds: str) -> list[HistoryEntry]:
    return [entry for entry in entries if not (entry.job == job and entry.kind in kinds)]


def _forget(entries: list[HistoryEntry], final: Snapshot, job: str) -> tuple[list[HistoryEntry], Snapshot]:
    letters = tuple(letter for letter in final.letters if letter.job != job)
    outcomes = {name: state for name, state in final.outcomes.items() if name != job}
    return _without(entries, job, "start", "end", "settled"), Snapshot(final.queues, outcomes, letters)


def _run_again(
    entries: list[HistoryEntry], final: Snapshot, job: str, times: int = 1
) -> tuple[list[HistoryEntry], Snapshot]:
    end = entries[-1].at
    extra = [
        HistoryEntry(end + number, "w99", kind, job, {"run": number, "outcome": "returned"})
        for number in range(times)
        for kind in ("start", "end")
    ]
    return entries + extra, final


def _shift(entries: list[HistoryEntry], job: str, kind: str, at: float) -> list[HistoryEntry]:
    """Move the first entry of this kind."""
    index = next(index for index, entry in enumerate(entries) if (entry.job, entry.kind) == (job, kind))
    moved = msgspec.structs.replace(entries[index], at=at)
    return [*entries[:index], moved, *entries[index + 1 :]]


def _slow(entries: list[HistoryEntry], job: str) -> list[HistoryEntry]:
    return [
        msgspec.structs.replace(entry, facts=entry.facts | {"took": 99.0}) if entry.job == job else entry
        for entry in entries
    ]


def _letter(final: Snapshot, **changes: Any) -> Snapshot:
    return msgspec.structs.replace(final, letters=(msgspec.structs.replace(final.letters[0], **changes),))


#: What is broken: which jobs it can be broken for, and how it is.
MUTATIONS: dict[str, Callable[[list[HistoryEntry], Snapshot, str, Any], tuple[list[HistoryEntry], Snapshot]]] = {
    "lost": lambda entries, final, job, _: _forget(entries, final, job),
    "unexpected": lambda entries, final, job, _: (
        _without(entries, job, "invoke", "ok", "uncertain", "duplicate"),
        final,
    ),
    "duplicated": lambda entries, final, job, _: _run_again(entries, final, job),
    "overrun": lambda entries, final, job, _: _run_again(entries, final, job, ATTEMPTS + CRASHES + 1),
    "effects": lambda entries, final, job, _: (entries + [one for one in entries if one.kind == "effect"], final),
    "stuck": lambda entries, final, job, _: (
        entries,
        msgspec.structs.replace(final, queues={"q": Left(ready=frozenset({job}))}),
    ),
    "hang": lambda entries, final, job, _: (_slow(entries, job), final),
    "early": lambda entries, final, job, at: (_shift(entries, job, "start", at - 1.0), final),
    "misordered": lambda entries, final, job, at: (_shift(entries, job, "start", entries[-1].at + 1.0), final),
    "silent": lambda entries, final, job, _: (
        [*entries, HistoryEntry(entries[-1].at, "client", "uncertain", job, {"took": 0.0})],
        final,
    ),
}


@pytest.mark.parametrize("fault", MUTATIONS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_broken_queue_is_caught(fault: str, seed: int) -> None:
    """Break a correct queue's history in one place, and the count that stands for it is too high."""
    queue = play(random.Random(seed).choice, calm=True)
    entries = [entry for entry in queue.history.entries if entry.facts.get("name") != "job.uncertain"]
    first = next(entry for entry in entries if entry.kind == "invoke")
    broken, final = MUTATIONS[fault](entries, queue.final, first.job, first.at)
    allowed = queue.excused if fault in ("duplicated", "effects") else 99
    if fault == "effects" and not any(entry.kind == "effect" for entry in entries):
        return
    effects = {"effects_allowed": 0} if fault == "effects" else {}
    if fault == "duplicated":
        allowed = judge_toy(entries, queue.final).duplicate_runs
    report = judge_toy(broken, final, allowed, ordered=fault == "misordered", **effects)
    assert fault in report.violations, str(report)


@given(seed=st.integers(0, 10_000), how=st.sampled_from(["envelope", "trail", "errors", "reason"]))
@settings(max_examples=60, deadline=None)
def test_a_false_letter_is_caught(seed: int, how: str) -> None:
    """Change one thing about a dead letter, and it is found."""
    queue = play(random.Random(seed).choice, jobs=6)
    exhausted = [letter for letter in queue.final.letters if letter.reason == "exhausted" and not letter.crashes]
    if not exhausted:
        return
    final = msgspec.structs.replace(queue.final, letters=tuple(exhausted[:1]))
    false = {
        "envelope": {"envelope": "x"},
        "trail": {"trail": "x"},
        "errors": {"errors": exhausted[0].errors[1:]},
        "reason": {"reason": "poison"},
    }
    entries = [entry for entry in queue.history.entries if entry.job == exhausted[0].job]
    assert not judge_toy(entries, final, 99).broken
    assert judge_toy(entries, _letter(final, **false[how]), 99).violations == ("dlq_bad",)
