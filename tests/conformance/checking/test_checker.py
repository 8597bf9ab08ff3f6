"""The checker: every count sees its fault, a clean history passes, and uncertainty is neither success nor failure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskcore.conformance.checking import Left, Snapshot
from tests.support.history_writer import HistoryWriter, found


@pytest.fixture
def written() -> HistoryWriter:
    """Make a history for a test to write."""
    return HistoryWriter()


# ── a clean history ──────────────────────────────────────────────────────────────────────────────


def test_clean(written: HistoryWriter) -> None:
    """A job that was enqueued, ran once and was settled breaks nothing, and the report says so in a line."""
    written.sent()
    written.ran()
    written.settled(verdict="ack")
    report = written.check(ordered=True)
    assert not report.broken, str(report)
    assert str(report) == "all promises kept (1 jobs, 0 uncertain ones ran)"


def test_an_empty_history_is_clean(written: HistoryWriter) -> None:
    """Where nothing happened, nothing is broken."""
    assert not written.check().broken


# ── each count sees its fault ────────────────────────────────────────────────────────────────────


def test_lost(written: HistoryWriter) -> None:
    """A confirmed job that never started and is nowhere is lost."""
    written.sent()
    assert written.check().violations == ("lost",)


def test_lost_after_an_error(written: HistoryWriter) -> None:
    """A job whose only run raised, and that left no dead letter, is lost although it did end."""
    written.sent()
    written.failed(verdict="bury")
    assert written.check().violations == ("lost",)


def test_lost_letter(written: HistoryWriter) -> None:
    """An outcome "dead" is no excuse for a missing dead letter."""
    written.sent()
    written.failed(verdict="bury")
    assert written.check(Snapshot({"q": Left()}, {"A": "dead"})).violations == ("lost",)


@pytest.mark.parametrize("state", ["succeeded", "cancelled", "expired"])
def test_ended_is_not_lost(written: HistoryWriter, state: str) -> None:
    """A job that came to an end that the guarantees name is not lost, though it never started here."""
    written.sent()
    assert not written.check(Snapshot({"q": Left()}, {"A": state})).broken


def test_taken_back_is_not_lost(written: HistoryWriter) -> None:
    """A job that was removed before its start, or whose queue was purged, is not lost."""
    written.sent()
    written.cancelled()
    written.sent("B")
    written.event("", name="purged", queue="q")
    assert not written.check().broken


def test_at_most_once_may_be_lost(written: HistoryWriter) -> None:
    """A job that may start once has ended with its start, whatever came of it; starting again is too much."""
    written.sent()
    written.start(run=1)
    assert written.check().violations == ("lost",)
    assert not written.check(at_most_once=True).broken
    written.ran(run=2)
    assert "overrun" in written.check(at_most_once=True).violations


def test_unexpected(written: HistoryWriter) -> None:
    """A start of a job that no client sent is invented."""
    written.ran()
    assert written.check().violations == ("unexpected",)


def test_refused_and_started(written: HistoryWriter) -> None:
    """Refused means surely not stored, so a start of such a job is invented."""
    written.invoke()
    written.refused()
    written.ran()
    assert written.check().violations == ("unexpected",)


def test_started_after_cancel(written: HistoryWriter) -> None:
    """No start once the job was taken back."""
    written.sent()
    written.cancelled()
    written.ran()
    assert written.check().violations == ("unexpected",)


def test_other_bytes(written: HistoryWriter) -> None:
    """What is handed out is what was enqueued, byte by byte."""
    written.sent()
    written.event(name="received", envelope="other bytes")
    written.ran()
    assert written.check().violations == ("unexpected",)


def test_duplicated(written: HistoryWriter) -> None:
    """A second run after one that returned is a duplicate; one that follows a failure is not."""
    written.sent()
    written.ran()
    written.ran(run=2)
    written.sent("B")
    written.failed("B")
    written.ran("B", run=2)
    report = written.check()
    assert report.violations == ("duplicated",)
    assert [finding.job for finding in report.duplicated] == ["A"]
    assert not written.check(duplicates_allowed=1).broken


def test_a_run_of_the_dead(written: HistoryWriter) -> None:
    """A run that raised calls for another one, unless the job was buried for it."""
    written.sent()
    written.failed(verdict="bury", trail="trail")
    written.failed(run=2, verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1", "ValueError: 2"), reason="not retryable")
    assert written.check(final).violations == ("duplicated",)


def test_effects(written: HistoryWriter) -> None:
    """An effect that was done twice counts, whichever run did it."""
    written.sent()
    written.start(run=1)
    written.effect(key="charge-7")
    written.effect(key="charge-7")
    written.end(run=1, outcome="returned")
    report = written.check()
    assert (report.violations, report.duplicate_effects) == (("effects",), 1)
    assert not written.check(effects_allowed=1).broken


@pytest.mark.parametrize("place", ["ready", "scheduled", "leased"])
def test_stuck(written: HistoryWriter, place: str) -> None:
    """A job that is still somewhere when all is quiet is stuck, and not lost."""
    written.sent()
    assert written.check(Snapshot({"q": Left(**{place: frozenset({"A"})})})).violations == ("stuck",)


def test_stuck_without_a_name(written: HistoryWriter) -> None:
    """Jobs that a broker counts but cannot name are stuck too."""
    written.sent()
    written.ran()
    assert written.check(Snapshot({"q": Left(unnamed=1)})).violations == ("stuck",)


def test_early(written: HistoryWriter) -> None:
    """A start before the delay is over is early; after it, it is not."""
    written.sent(delay=10.0)
    written.ran()
    assert written.check().violations == ("early",)
    assert not written.check(delta=9.0).broken


def test_early_retry(written: HistoryWriter) -> None:
    """A retry before its wait is over is early."""
    written.sent()
    written.failed(after=60.0, began=4.0)
    written.ran(run=2)
    assert written.check().violations == ("early",)


def test_late(written: HistoryWriter) -> None:
    """A start after the deadline is late."""
    written.sent(expires=1.0)
    written.ran()
    assert written.check().violations == ("late",)
    assert not written.check(delta=2.0).broken


def test_misordered(written: HistoryWriter) -> None:
    """Where order is promised, a job may not start behind one that was enqueued after it was."""
    written.sent("A")
    written.sent("B")
    written.ran("B")
    written.ran("A")
    assert written.check(ordered=True).violations == ("misordered",)
    assert not written.check().broken


def test_enqueued_at_once_has_no_order(written: HistoryWriter) -> None:
    """Enqueues that overlap have no order among them."""
    written.invoke("A", queue="q")
    written.invoke("B", queue="q")
    written.ok("A")
    written.ok("B")
    written.ran("B")
    written.ran("A")
    assert not written.check(ordered=True).broken


def test_overrun(written: HistoryWriter) -> None:
    """More starts than attempts and crashes allow; those that were given back are free."""
    written.sent()
    for run in range(1, 4):
        written.failed(run=run)
    written.ran(run=4)
    assert written.check().violations == ("overrun",)
    assert not written.check(attempts=lambda job: {"A": 3}[job]).broken


def test_given_back_is_free(written: HistoryWriter) -> None:
    """Interrupted and released, or snoozed: neither attempt nor crash, however often."""
    written.sent()
    for run in range(1, 6):
        written.ran(run=run, outcome="interrupted")
        written.settled(verdict="release")
    for run in range(6, 11):
        written.ran(run=run, outcome="raised", error="Snooze: asked to sleep for 1 s")
        written.settled(verdict="reschedule", after=0.0)
    written.ran(run=11)
    assert not written.check().broken


@pytest.mark.parametrize(
    ("happened", "facts", "event"),
    [
        ("duplicate", {}, "job.duplicate"),
        ("uncertain", {}, "job.uncertain"),
        ("lost", {"verdict": "ack"}, "job.lost"),
        ("lost", {"verdict": "ack"}, "settle.unconfirmed"),
        ("settled", {"verdict": "bury", "trail": "trail"}, "job.buried"),
    ],
)
def test_silent(written: HistoryWriter, happened: str, facts: dict[str, Any], event: str) -> None:
    """A suppressed, uncertain, lost or buried job without its event is silent, if the history has a listener."""
    written.sent()
    written.ran()
    getattr(written, happened)(**facts)
    assert not written.check().broken, "the history has no listener"
    written.event("", name="listening")
    assert written.check().violations == ("silent",)
    written.event(name=event, who="another")
    assert written.check().violations == ("silent",)
    written.event(name=event)
    assert not written.check().broken


def test_a_killed_worker_reports_nothing(written: HistoryWriter) -> None:
    """A worker that was killed is not expected to have reported it."""
    written.event("", name="listening")
    written.sent()
    written.ran()
    written.lost(verdict="ack")
    written.died("")
    assert not written.check().broken


def test_silent_expiry(written: HistoryWriter) -> None:
    """An expiry without an event is silent."""
    written.event("", name="listening")
    written.sent()
    final = Snapshot({"q": Left()}, {"A": "expired"})
    assert written.check(final).violations == ("silent",)
    written.event(name="job.expired")
    assert not written.check(final).broken


def test_hang(written: HistoryWriter) -> None:
    """A call that took longer than its limit and a second."""
    written.invoke(queue="q")
    written.ok(took=6.1)
    written.ran()
    assert written.check().violations == ("hang",)
    assert not written.check(time_limit=5.2).broken


def test_hang_without_an_end(written: HistoryWriter) -> None:
    """An enqueue that was never answered hangs, unless its caller was killed."""
    written.invoke(queue="q")
    assert written.check().violations == ("hang",)
    written.died("")
    assert not written.check().broken


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"envelope": "other"}, "other bytes"),
        ({"trail": "other"}, "another trail"),
        ({"errors": None}, "cannot be read"),
        ({"errors": ("ValueError: 2",)}, "leaves out: ValueError: 1"),
        ({"errors": ("ValueError: 1", "ValueError: 2", "KeyError: 3")}, "no run raised: KeyError: 3"),
        ({"attempts": 1}, '"exhausted" after 1 of 2'),
        ({"reason": "poison"}, '"poison", although every start'),
    ],
)
def test_dlq_bad(written: HistoryWriter, changes: dict[str, Any], says: str) -> None:
    """A dead letter holds the bytes that were sent, every error and no other, and a reason that fits."""
    written.sent()
    written.failed(after=0.0)
    written.failed(run=2, verdict="bury", trail="trail")
    truth = found(errors=("ValueError: 1", "ValueError: 2"))
    assert not written.check(truth).broken
    report = written.check(found(**({"errors": ("ValueError: 1", "ValueError: 2")} | changes)))
    assert report.violations == ("dlq_bad",)
    assert says in str(report)


def test_one_letter_a_job(written: HistoryWriter) -> None:
    """Two dead letters of one job are one too many, and a job that succeeded has none."""
    written.sent()
    written.failed(verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    twice = msgspec.structs.replace(final, letters=final.letters * 2)
    assert written.check(twice).violations == ("dlq_bad",)
    assert written.check(msgspec.structs.replace(final, outcomes={"A": "succeeded"})).violations == ("dlq_bad",)


def test_poison_needs_a_start(written: HistoryWriter) -> None:
    """A neighbour that never started cannot be poison."""
    written.sent()
    written.sent("B")
    written.ran("B")
    assert written.check(found(reason="poison")).violations == ("dlq_bad",)


def test_poison(written: HistoryWriter) -> None:
    """A start that never came to a verdict makes poison plausible."""
    written.sent()
    written.start(run=1)
    written.died("")
    written.event(name="received", who="w2")
    written.settled(verdict="bury", trail="trail", who="w2")
    assert not written.check(found(reason="poison")).broken


def test_unencodable_result(written: HistoryWriter) -> None:
    """The error of a result that cannot be encoded was raised by no run, and belongs into the letter."""
    written.sent()
    written.ran()
    written.settled(verdict="bury", trail="trail")
    assert not written.check(found(reason="result", errors=("taskcore.errors.UnencodableResult: x",))).broken


# ── uncertain ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ran", [True, False])
def test_uncertain_enqueue(written: HistoryWriter, ran: bool) -> None:
    """An uncertain enqueue may have happened or not; if it ran, the report says so."""
    written.invoke(queue="q")
    written.uncertain()
    if ran:
        written.ran()
    report = written.check()
    assert not report.broken
    assert list(report.recovered) == ["A"] * ran


@pytest.mark.parametrize("trail", ["trail", "older trail"])
def test_uncertain_verdict(written: HistoryWriter, trail: str) -> None:
    """An uncertain verdict may have been carried out: the letter may have its trail, or a later one."""
    written.sent()
    written.ran(outcome="raised", error="ValueError: 1")
    written.event(name="settle.uncertain", verdict="bury", trail="trail")
    assert not written.check(found(trail=trail, errors=("ValueError: 1",), reason="not retryable")).broken


# ── the report ───────────────────────────────────────────────────────────────────────────────────


def test_the_history_is_printed(written: HistoryWriter) -> None:
    """A report prints the history of each job that it blames, in the order of time, and of no other."""
    written.sent("A")
    written.sent("B")
    written.ran("B")
    written.start("A", run=1)
    text = str(written.check())
    assert text.splitlines()[:2] == [
        "lost = 1: enqueued, and nowhere to be found",
        "    A: enqueued, 1 run(s), none of which returned, no dead letter, not in any queue",
    ]
    lines = text.partition("the history of A")[2].splitlines()[1:]
    assert [line.split()[2] for line in lines] == ["invoke", "ok", "start"]
    assert "the history of B" not in text


def test_not_all_of_many_histories_are_printed(written: HistoryWriter) -> None:
    """Of many offenders a few histories are printed and all are named."""
    for number in range(20):
        written.sent(f"job-{number}")
    text = str(written.check())
    assert text.count("the history of") == 5
    assert "15 more histories" in text
    assert all(f"    job-{number}: " in text for number in range(20))
