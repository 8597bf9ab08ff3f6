"""The checker: every count sees its fault, a clean history passes, and uncertainty is neither success nor failure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tellers import Teller, found

from taskcore.conformance.checking import Final, Left


@pytest.fixture
def tale() -> Teller:
    """A history to be told by hand."""
    return Teller()


# ── a clean history ──────────────────────────────────────────────────────────────────────────────


def test_clean(tale: Teller) -> None:
    """A job that was enqueued, ran once and was settled breaks nothing, and the report says so in a line."""
    tale.sent()
    tale.ran()
    tale.settled(verdict="ack")
    report = tale.judge(ordered=True)
    assert not report.broken, str(report)
    assert str(report) == "all promises kept (1 jobs, 0 uncertain ones ran)"


def test_an_empty_history_is_clean(tale: Teller) -> None:
    """Where nothing happened, nothing is broken."""
    assert not tale.judge().broken


# ── each count sees its fault ────────────────────────────────────────────────────────────────────


def test_lost(tale: Teller) -> None:
    """A confirmed job that never started and is nowhere is lost."""
    tale.sent()
    assert tale.judge().violations == ("lost",)


def test_lost_after_an_error(tale: Teller) -> None:
    """A job whose only run raised, and that left no dead letter, is lost although it did end."""
    tale.sent()
    tale.failed(verdict="bury")
    assert tale.judge().violations == ("lost",)


def test_lost_letter(tale: Teller) -> None:
    """An ending "dead" is no excuse for a missing dead letter."""
    tale.sent()
    tale.failed(verdict="bury")
    assert tale.judge(Final({"q": Left()}, {"A": "dead"})).violations == ("lost",)


@pytest.mark.parametrize("state", ["succeeded", "cancelled", "expired"])
def test_ended_is_not_lost(tale: Teller, state: str) -> None:
    """A job that came to an end of the contract is not lost, though it never started here."""
    tale.sent()
    assert not tale.judge(Final({"q": Left()}, {"A": state})).broken


def test_taken_back_is_not_lost(tale: Teller) -> None:
    """A job that was removed before its start, or whose queue was purged, is not lost."""
    tale.sent()
    tale.cancelled()
    tale.sent("B")
    tale.event("", name="purged", queue="q")
    assert not tale.judge().broken


def test_at_most_once_may_be_lost(tale: Teller) -> None:
    """A job that may start once has ended with its start, whatever came of it; starting again is too much."""
    tale.sent()
    tale.start(run=1)
    assert tale.judge().violations == ("lost",)
    assert not tale.judge(at_most_once=True).broken
    tale.ran(run=2)
    assert "overrun" in tale.judge(at_most_once=True).violations


def test_unexpected(tale: Teller) -> None:
    """A start that nobody asked for is invented."""
    tale.ran()
    assert tale.judge().violations == ("unexpected",)


def test_refused_and_started(tale: Teller) -> None:
    """Refused means surely not stored, so a start of such a job is invented."""
    tale.invoke()
    tale.refused()
    tale.ran()
    assert tale.judge().violations == ("unexpected",)


def test_started_after_cancel(tale: Teller) -> None:
    """No start once the job was taken back."""
    tale.sent()
    tale.cancelled()
    tale.ran()
    assert tale.judge().violations == ("unexpected",)


def test_other_bytes(tale: Teller) -> None:
    """What is handed out is what was enqueued, byte by byte."""
    tale.sent()
    tale.event(name="received", envelope="other bytes")
    tale.ran()
    assert tale.judge().violations == ("unexpected",)


def test_duplicated(tale: Teller) -> None:
    """A second run after one that returned is a duplicate; one that follows a failure is not."""
    tale.sent()
    tale.ran()
    tale.ran(run=2)
    tale.sent("B")
    tale.failed("B")
    tale.ran("B", run=2)
    report = tale.judge()
    assert report.violations == ("duplicated",)
    assert [finding.job for finding in report.duplicated] == ["A"]
    assert not tale.judge(duplicates_allowed=1).broken


def test_a_run_of_the_dead(tale: Teller) -> None:
    """A run that raised calls for another one, unless the job was buried for it."""
    tale.sent()
    tale.failed(verdict="bury", trail="trail")
    tale.failed(run=2, verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1", "ValueError: 2"), reason="not retryable")
    assert tale.judge(final).violations == ("duplicated",)


def test_effects(tale: Teller) -> None:
    """An effect that was done twice counts, whoever did it."""
    tale.sent()
    tale.start(run=1)
    tale.effect(key="charge-7")
    tale.effect(key="charge-7")
    tale.end(run=1, outcome="returned")
    report = tale.judge()
    assert (report.violations, report.duplicate_effects) == (("effects",), 1)
    assert not tale.judge(effects_allowed=1).broken


@pytest.mark.parametrize("place", ["ready", "scheduled", "leased"])
def test_stuck(tale: Teller, place: str) -> None:
    """A job that is still somewhere when all is quiet is stuck, and not lost."""
    tale.sent()
    assert tale.judge(Final({"q": Left(**{place: frozenset({"A"})})})).violations == ("stuck",)


def test_stuck_without_a_name(tale: Teller) -> None:
    """Jobs that a broker counts but cannot name are stuck too."""
    tale.sent()
    tale.ran()
    assert tale.judge(Final({"q": Left(unnamed=1)})).violations == ("stuck",)


def test_early(tale: Teller) -> None:
    """A start before the delay is over is early; after it, it is not."""
    tale.sent(delay=10.0)
    tale.ran()
    assert tale.judge().violations == ("early",)
    assert not tale.judge(delta=9.0).broken


def test_early_retry(tale: Teller) -> None:
    """A retry before its wait is over is early."""
    tale.sent()
    tale.failed(after=60.0, began=4.0)
    tale.ran(run=2)
    assert tale.judge().violations == ("early",)


def test_late(tale: Teller) -> None:
    """A start after the deadline is late."""
    tale.sent(expires=1.0)
    tale.ran()
    assert tale.judge().violations == ("late",)
    assert not tale.judge(delta=2.0).broken


def test_misordered(tale: Teller) -> None:
    """Where order is promised, a job may not start behind one that was enqueued after it was."""
    tale.sent("A")
    tale.sent("B")
    tale.ran("B")
    tale.ran("A")
    assert tale.judge(ordered=True).violations == ("misordered",)
    assert not tale.judge().broken


def test_enqueued_at_once_has_no_order(tale: Teller) -> None:
    """Enqueues that overlap have no order among them."""
    tale.invoke("A", queue="q")
    tale.invoke("B", queue="q")
    tale.ok("A")
    tale.ok("B")
    tale.ran("B")
    tale.ran("A")
    assert not tale.judge(ordered=True).broken


def test_overrun(tale: Teller) -> None:
    """More starts than attempts and crashes allow; those that were given back are free."""
    tale.sent()
    for run in range(1, 4):
        tale.failed(run=run)
    tale.ran(run=4)
    assert tale.judge().violations == ("overrun",)
    assert not tale.judge(attempts=lambda job: {"A": 3}[job]).broken


def test_given_back_is_free(tale: Teller) -> None:
    """Interrupted and released, or snoozed: neither attempt nor crash, however often."""
    tale.sent()
    for run in range(1, 6):
        tale.ran(run=run, outcome="interrupted")
        tale.settled(verdict="release")
    for run in range(6, 11):
        tale.ran(run=run, outcome="raised", error="Snooze: asked to sleep for 1 s")
        tale.settled(verdict="reschedule", after=0.0)
    tale.ran(run=11)
    assert not tale.judge().broken


@pytest.mark.parametrize(
    ("happened", "facts", "told"),
    [
        ("duplicate", {}, "job.duplicate"),
        ("uncertain", {}, "job.uncertain"),
        ("lost", {"verdict": "ack"}, "job.lost"),
        ("lost", {"verdict": "ack"}, "settle.unconfirmed"),
        ("settled", {"verdict": "bury", "trail": "trail"}, "job.buried"),
    ],
)
def test_silent(tale: Teller, happened: str, facts: dict[str, Any], told: str) -> None:
    """What was suppressed, uncertain, lost or buried has to be told by whoever it happened to, if one listened."""
    tale.sent()
    tale.ran()
    getattr(tale, happened)(**facts)
    assert not tale.judge().broken, "nobody listened"
    tale.event("", name="listening")
    assert tale.judge().violations == ("silent",)
    tale.event(name=told, who="another")
    assert tale.judge().violations == ("silent",)
    tale.event(name=told)
    assert not tale.judge().broken


def test_the_dead_tell_nothing(tale: Teller) -> None:
    """Whoever was killed is not expected to have told it."""
    tale.event("", name="listening")
    tale.sent()
    tale.ran()
    tale.lost(verdict="ack")
    tale.died("")
    assert not tale.judge().broken


def test_silent_expiry(tale: Teller) -> None:
    """An expiry that nobody told is silent."""
    tale.event("", name="listening")
    tale.sent()
    final = Final({"q": Left()}, {"A": "expired"})
    assert tale.judge(final).violations == ("silent",)
    tale.event(name="job.expired")
    assert not tale.judge(final).broken


def test_hang(tale: Teller) -> None:
    """A call that took longer than its limit and a second."""
    tale.invoke(queue="q")
    tale.ok(took=6.1)
    tale.ran()
    assert tale.judge().violations == ("hang",)
    assert not tale.judge(time_limit=5.2).broken


def test_hang_without_an_end(tale: Teller) -> None:
    """An enqueue that was never answered hangs, unless its caller was killed."""
    tale.invoke(queue="q")
    assert tale.judge().violations == ("hang",)
    tale.died("")
    assert not tale.judge().broken


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
def test_dlq_bad(tale: Teller, changes: dict[str, Any], says: str) -> None:
    """A dead letter holds the bytes that were sent, every error and no other, and a reason that fits."""
    tale.sent()
    tale.failed(after=0.0)
    tale.failed(run=2, verdict="bury", trail="trail")
    truth = found(errors=("ValueError: 1", "ValueError: 2"))
    assert not tale.judge(truth).broken
    report = tale.judge(found(**({"errors": ("ValueError: 1", "ValueError: 2")} | changes)))
    assert report.violations == ("dlq_bad",)
    assert says in str(report)


def test_one_letter_a_job(tale: Teller) -> None:
    """Two dead letters of one job are one too many, and a job that succeeded has none."""
    tale.sent()
    tale.failed(verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    twice = msgspec.structs.replace(final, letters=final.letters * 2)
    assert tale.judge(twice).violations == ("dlq_bad",)
    assert tale.judge(msgspec.structs.replace(final, endings={"A": "succeeded"})).violations == ("dlq_bad",)


def test_poison_needs_a_start(tale: Teller) -> None:
    """A neighbour that never started cannot be poison."""
    tale.sent()
    tale.sent("B")
    tale.ran("B")
    assert tale.judge(found(reason="poison")).violations == ("dlq_bad",)


def test_poison(tale: Teller) -> None:
    """A start that never came to a verdict makes poison plausible."""
    tale.sent()
    tale.start(run=1)
    tale.died("")
    tale.event(name="received", who="w2")
    tale.settled(verdict="bury", trail="trail", who="w2")
    assert not tale.judge(found(reason="poison")).broken


def test_unencodable_result(tale: Teller) -> None:
    """The error of a result that cannot be encoded was raised by no run, and belongs into the letter."""
    tale.sent()
    tale.ran()
    tale.settled(verdict="bury", trail="trail")
    assert not tale.judge(found(reason="result", errors=("taskcore.errors.UnencodableResult: x",))).broken


# ── nobody knows ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ran", [True, False])
def test_uncertain_enqueue(tale: Teller, ran: bool) -> None:
    """An enqueue of which nobody knows may have happened or not; if it ran, the report says so."""
    tale.invoke(queue="q")
    tale.uncertain()
    if ran:
        tale.ran()
    report = tale.judge()
    assert not report.broken
    assert list(report.recovered) == ["A"] * ran


@pytest.mark.parametrize("trail", ["trail", "older trail"])
def test_uncertain_verdict(tale: Teller, trail: str) -> None:
    """A verdict of which nobody knows may have been carried out: the letter may have its trail, or a later one."""
    tale.sent()
    tale.ran(outcome="raised", error="ValueError: 1")
    tale.event(name="settle.uncertain", verdict="bury", trail="trail")
    assert not tale.judge(found(trail=trail, errors=("ValueError: 1",), reason="not retryable")).broken


# ── the report ───────────────────────────────────────────────────────────────────────────────────


def test_the_story_is_told(tale: Teller) -> None:
    """A report tells the story of whom it blames, in the order of time, and of nobody else."""
    tale.sent("A")
    tale.sent("B")
    tale.ran("B")
    tale.start("A", run=1)
    text = str(tale.judge())
    assert text.splitlines()[:2] == [
        "lost = 1: enqueued, and nowhere to be found",
        "    A: enqueued, 1 run(s), none of which returned, no dead letter, not in any queue",
    ]
    story = text.partition("the story of A")[2].splitlines()[1:]
    assert [line.split()[2] for line in story] == ["invoke", "ok", "start"]
    assert "the story of B" not in text


def test_many_stories_are_not_all_told(tale: Teller) -> None:
    """Of many offenders a few stories are told and all are named."""
    for number in range(20):
        tale.sent(f"job-{number}")
    text = str(tale.judge())
    assert text.count("the story of") == 5
    assert "15 more stories" in text
    assert all(f"    job-{number}: " in text for number in range(20))
