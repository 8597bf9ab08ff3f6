"""What the checker learned from model and sweep: things that are legal, and what beside each of them is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.checking import Expectations, FoundLetter, GuaranteesBroken, Left, Report, Snapshot
from tests.support.history_writer import QUIET, HistoryWriter, found

STORED = Expectations(results=True)
KEYED = Expectations(key_window=100.0)
FENCED = Expectations(fenced=True)


@pytest.fixture
def written() -> HistoryWriter:
    """Make a history for a test to write."""
    return HistoryWriter()


def kept(report: Report) -> bool:
    """Tell whether nothing was found; show a finding."""
    report.expect_kept()
    return True


# ── runs without a verdict ───────────────────────────────────────────────────────────────────────


def test_a_run_without_a_verdict_allows_one_more_run(written: HistoryWriter) -> None:
    """A run that came to no verdict excuses one more run of its job, and none of another's."""
    written.sent()
    written.ran()
    written.died("")
    written.ran(run=2)
    written.settled(verdict="ack")
    assert kept(written.check(duplicates_allowed="unsettled"))
    written.sent("B")
    written.ran("B")
    written.settled("B", verdict="ack")
    written.ran("B", run=2)
    written.settled("B", verdict="ack")
    report = written.check(duplicates_allowed="unsettled")
    assert [finding.job for finding in report.duplicated] == ["B"]


def test_no_run_is_allowed_after_the_end(written: HistoryWriter) -> None:
    """What begins when the job was acked was called for by nothing, whatever happened before."""
    written.sent()
    written.ran()
    written.ran(run=2)
    written.settled(verdict="ack")
    written.ran(run=3)
    assert written.check(duplicates_allowed="unsettled", crashes=9).violations == ("duplicated",)
    many = Expectations(one_copy=False)
    assert kept(written.check(duplicates_allowed="unsettled", crashes=9, expectations=many))


def test_a_lost_key_calls_for_another_run(written: HistoryWriter) -> None:
    """A run that returned and was settled with a retry was in vain: another is due, and it costs nothing."""
    written.sent()
    for run in range(1, 9):
        written.ran(run=run)
        written.settled(verdict="reschedule", after=0.0)
    written.ran(run=9)
    written.settled(verdict="ack")
    assert kept(written.check())


def test_attempts_and_deaths_are_counted_apart(written: HistoryWriter) -> None:
    """Unused crashes are no attempts, and unused attempts are no crashes."""
    written.sent()
    for run in range(1, 4):
        written.failed(run=run)
    report = written.check(found(errors=("ValueError: 1", "ValueError: 2", "ValueError: 3"), attempts=3), crashes=9)
    assert report.violations == ("overrun",)
    assert "failed 3 times, it has 2 attempts" in str(report)
    written.sent("B")
    for run in range(1, 3):
        written.ran("B", run)
        written.lost("B", verdict="ack")
    report = written.check(found(errors=("ValueError: 1", "ValueError: 2", "ValueError: 3")), attempts=9)
    assert [finding.why for finding in report.overrun] == ["2 starts died or lost their lease, 1 are allowed"]


def test_an_uncertain_verdict_is_no_death(written: HistoryWriter) -> None:
    """An uncertain verdict may have been carried out, so its run is not counted as one that died."""
    written.sent()
    for run in range(1, 3):
        written.ran(run=run)
        written.event(name="settle.uncertain", verdict="reschedule")
    written.died("")
    assert kept(written.check(duplicates_allowed="unsettled"))


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────


def test_at_most_once_by_job(written: HistoryWriter) -> None:
    """Some jobs may be at most once: acked before a start that never came is their end, and theirs only."""
    for job in "AB":
        written.sent(job)
        written.settled(job, verdict="ack")
    report = written.check(at_most_once=lambda job: job == "A")
    assert [finding.job for finding in report.lost] == ["B"]


@pytest.mark.parametrize("dies", [True, False])
def test_at_most_once_held_by_a_dead_worker(written: HistoryWriter, dies: bool) -> None:
    """A worker that received the job may have acked it and died before it recorded that."""
    written.sent()
    written.event(name="received")
    if dies:
        written.died("")
    assert written.check(at_most_once=True).violations == (() if dies else ("lost",))


def test_an_ended_job_without_an_outcome(written: HistoryWriter) -> None:
    """Where a store keeps how jobs ended, a job that is over without an outcome is lost to its caller (C8)."""
    written.sent()
    written.ran()
    written.settled(verdict="ack")
    assert kept(written.check())
    assert written.check(expectations=STORED).violations == ("lost",)
    assert kept(written.check(Snapshot({"q": Left()}, {"A": "succeeded"}), expectations=STORED))
    assert kept(written.check(expectations=STORED, at_most_once=True))


def test_acked_unrun_and_said_so(written: HistoryWriter) -> None:
    """A job that was done before is acked without a start, if an event says so."""
    written.sent()
    written.settled(verdict="ack")
    assert written.check().violations == ("lost",)
    written.event(name="job.skipped")
    assert kept(written.check())


def test_a_client_that_died_while_cancelling(written: HistoryWriter) -> None:
    """A job that was cancelled by a client that died needs no recorded outcome."""
    written.sent()
    written.cancelled(who="c1")
    assert written.check(expectations=STORED).violations == ("lost",)
    written.died("", who="c1")
    assert kept(written.check(expectations=STORED))


def test_a_known_id_is_a_promise(written: HistoryWriter) -> None:
    """An answer "it is there" confirms a job whose first enqueue was uncertain."""
    written.invoke(queue="q")
    written.uncertain()
    assert kept(written.check())
    written.invoke(queue="q")
    written.duplicate()
    assert written.check().violations == ("lost",)


def test_sent_again_by_a_client_that_died(written: HistoryWriter) -> None:
    """A client that was killed while it sent a dead letter again may have sent it or not."""
    written.sent()
    written.failed(verdict="bury", trail="trail")
    written.invoke("A2", queue="q", via="replay", replays="A", who="c1")
    assert "lost" in written.check().violations
    written.died("", who="c1")
    assert kept(written.check())


def test_sent_again_and_still_there(written: HistoryWriter) -> None:
    """Once it was sent again, its dead letter is gone (C13)."""
    written.sent()
    written.failed(verdict="bury", trail="trail")
    written.replayed(letter="1", into="A2")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    assert written.check(final).violations == ("dlq_bad",)
    assert kept(written.check())


# ── the same moment ──────────────────────────────────────────────────────────────────────────────


class Frozen(HistoryWriter):
    """A clock that stands, as a virtual one does between two waits."""

    def _clock(self) -> float:
        return self.now


def test_the_order_of_one_moment() -> None:
    """A start is behind a verdict or a cancellation if it was recorded behind it, not if it has the same time."""
    written = Frozen()
    written.sent()
    written.failed(after=10.0)
    written.now = 10.0
    written.ran(run=2)
    written.settled(verdict="ack")
    assert kept(written.check())
    written.sent("B")
    written.cancelled("B")
    written.ran("B")
    assert written.check().violations == ("unexpected",)


def test_unfenced() -> None:
    """A broker that fences refuses a verdict under a lease that another worker has by now (C7)."""
    written = Frozen()
    written.sent()
    written.event(name="received", who="w1")
    written.event(name="received", who="w2")
    written.settled(verdict="reschedule", who="w2")
    written.event(name="received", who="w1")
    written.start(run=1, who="w1")
    written.end(run=1, outcome="returned", who="w1")
    written.settled(verdict="ack", who="w1")
    assert kept(written.check(expectations=FENCED))
    written.settled(verdict="ack", who="w2")
    assert written.check(expectations=FENCED).violations == ("unfenced",)
    assert kept(written.check())


def test_a_verdict_that_was_under_way(written: HistoryWriter) -> None:
    """A verdict whose call began before the other one had the job may have been carried out in time."""
    written.sent()
    written.event(name="received", who="w1")
    written.ran(who="w1")
    began = written.now
    written.event(name="received", who="w2")
    written.settled(verdict="ack", began=began, who="w1")
    assert kept(written.check(expectations=FENCED))


# ── copies ───────────────────────────────────────────────────────────────────────────────────────

COPIES = Expectations(one_copy=False)


def test_each_copy_has_its_own_attempts(written: HistoryWriter) -> None:
    """A broker that does not notice an id keeps two copies of what was enqueued twice, and each may fail as often."""
    written.sent()
    written.sent()
    for run in range(1, 5):
        written.failed(run=run)
    final = found(errors=("ValueError: 3", "ValueError: 4"))
    assert set(written.check(final).violations) == {"dlq_bad", "overrun"}
    assert kept(written.check(final, expectations=COPIES))
    written.failed(run=5)
    assert written.check(final, expectations=COPIES).violations == ("overrun",)


def test_each_copy_may_start_once(written: HistoryWriter) -> None:
    """At most once holds for each copy; one that was enqueued once starts once, whatever the broker keeps."""
    written.sent()
    written.sent()
    written.ran()
    written.ran(run=2)
    options: dict[str, Any] = {"at_most_once": True, "duplicates_allowed": 9}
    assert written.check(**options).violations == ("overrun",)
    assert kept(written.check(expectations=COPIES, **options))
    written.sent("B")
    written.ran("B")
    written.ran("B", run=2)
    assert [finding.job for finding in written.check(expectations=COPIES, **options).overrun] == ["B"]


def test_a_copy_does_not_wait_for_the_other(written: HistoryWriter) -> None:
    """A verdict makes its own copy wait; where there is none but one, a start before its time is early."""
    written.sent()
    written.sent()
    written.failed(after=60.0)
    written.ran(run=2)
    assert written.check().violations == ("early",)
    assert kept(written.check(expectations=COPIES))
    written.sent("B")
    written.failed("B", after=60.0)
    written.ran("B", run=2)
    written.settled("B", verdict="ack")
    assert [finding.job for finding in written.check(expectations=COPIES).early] == ["B"]


def test_each_delivery_may_leave_a_letter(written: HistoryWriter) -> None:
    """Where burying takes two steps, a worker that dies between them leaves a letter, and the next worker another."""
    written.sent()
    for who in ("w1", "w2"):
        written.event(name="received", who=who)
    written.failed(verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    twice = msgspec.structs.replace(final, letters=final.letters * 2)
    thrice = msgspec.structs.replace(final, letters=final.letters * 3)
    assert written.check(twice).violations == ("dlq_bad",)
    assert kept(written.check(twice, expectations=COPIES))
    assert written.check(thrice, expectations=COPIES).violations == ("dlq_bad",)


# ── keys, suspects, strangers ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("later", "same", "broken"), [(0.0, False, True), (0.0, True, False), (200.0, False, False)])
def test_outcomes(written: HistoryWriter, later: float, same: bool, broken: bool) -> None:
    """Two jobs with one key within its window have one outcome (C10)."""
    for job in "AB":
        written.sent(job, task="t", key="k")
        written.ran(job)
        written.settled(job, verdict="ack")
        written.now += later
    values = {"A": "one", "B": "one" if same else "two"}
    final = Snapshot({"q": Left()}, dict.fromkeys("AB", "succeeded"), (), values)
    assert written.check(final, expectations=KEYED).violations == (("outcomes",) if broken else ())
    assert kept(written.check(final))


def test_poison_without_marks(written: HistoryWriter) -> None:
    """Without a store the broker's count of hand-outs stands in for starts, so a neighbour may be poison."""
    written.sent()
    written.sent("B")
    written.ran("B")
    assert kept(written.check(found(reason="poison"), expectations=Expectations(marked=False)))


def test_bytes_that_are_no_envelope(written: HistoryWriter) -> None:
    """Bytes that are no envelope have no id in events, and the same bytes sent twice are two letters."""
    written.event("", name="listening")
    for _ in range(2):
        written.sent("raw-1")
        written.settled("raw-1", verdict="bury", trail="trail")
    letter = FoundLetter(id="1", job="raw-1", envelope="bytes", trail="trail", reason="malformed")
    final = Snapshot({"q": Left()}, {}, (letter, msgspec.structs.replace(letter, id="2")))
    assert written.check(final).violations == ("silent",)
    written.event("?", name="job.buried")
    assert kept(written.check(final))
    third = msgspec.structs.replace(final, letters=(*final.letters, msgspec.structs.replace(letter, id="3")))
    assert written.check(third).violations == ("dlq_bad",)


# ── what a place promises, and how a report becomes a failure ────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"fenced": True, "one_copy": True}),
        ({"dedup": "absent"}, {"fenced": False, "one_copy": False}),
        ({"atomic_retry": False}, {"fenced": False, "one_copy": False}),
        ({"fencing": "emulated"}, {"fenced": False, "one_copy": True}),
    ],
)
def test_promised_by_features(changes: dict[str, Any], expected: dict[str, bool]) -> None:
    """What a broker is held to follows from its features, and from whether there is a store."""
    features = msgspec.structs.replace(MemoryBackend().features, **changes)
    promised = Expectations.from_features(features, has_store=True, key_window=9.0)
    assert {name: getattr(promised, name) for name in expected} == expected
    assert (promised.results, promised.marked, promised.key_window) == (True, True, 9.0)
    alone = Expectations.from_features(features, has_store=False, key_window=9.0)
    assert (alone.results, alone.marked, alone.key_window) == (False, False, None)


def test_a_report_can_fail(written: HistoryWriter) -> None:
    """A report that found something is an error with its text, behind the steps that led to it."""
    written.sent()
    report = written.check(QUIET)
    with pytest.raises(GuaranteesBroken, match="lost = 1") as caught:
        report.expect_kept()
    assert caught.value.report is report
    assert str(GuaranteesBroken(report, "enqueue A")) == f"enqueue A →\n{report}"
