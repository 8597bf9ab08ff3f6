"""What the checker learned from model and sweep: things that are legal, and what beside each of them is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tellers import QUIET, Teller, found

from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.checking import Final, Found, Left, Promised, PromisesBroken, Report

STORED = Promised(results=True)
KEYED = Promised(key_window=100.0)
FENCED = Promised(fenced=True)


@pytest.fixture
def tale() -> Teller:
    """A history to be told by hand."""
    return Teller()


def kept(report: Report) -> bool:
    """Whether nothing was found; a finding is shown."""
    report.expect_kept()
    return True


# ── runs without a verdict ───────────────────────────────────────────────────────────────────────


def test_a_run_without_a_verdict_excuses_one(tale: Teller) -> None:
    """A run that came to no verdict excuses one more run of its job, and none of another's."""
    tale.sent()
    tale.ran()
    tale.died("")
    tale.ran(run=2)
    tale.settled(verdict="ack")
    assert kept(tale.judge(duplicates_allowed="unsettled"))
    tale.sent("B")
    tale.ran("B")
    tale.settled("B", verdict="ack")
    tale.ran("B", run=2)
    tale.settled("B", verdict="ack")
    report = tale.judge(duplicates_allowed="unsettled")
    assert [finding.job for finding in report.duplicated] == ["B"]


def test_no_run_behind_the_end_is_excused(tale: Teller) -> None:
    """What begins when the job was acked was called for by nothing, whatever happened before."""
    tale.sent()
    tale.ran()
    tale.ran(run=2)
    tale.settled(verdict="ack")
    tale.ran(run=3)
    assert tale.judge(duplicates_allowed="unsettled", crashes=9).violations == ("duplicated",)
    many = Promised(one_copy=False)
    assert kept(tale.judge(duplicates_allowed="unsettled", crashes=9, promised=many))


def test_a_lost_key_calls_for_another_run(tale: Teller) -> None:
    """A run that returned and was settled with a retry was in vain: another is due, and it costs nothing."""
    tale.sent()
    for run in range(1, 9):
        tale.ran(run=run)
        tale.settled(verdict="reschedule", after=0.0)
    tale.ran(run=9)
    tale.settled(verdict="ack")
    assert kept(tale.judge())


def test_attempts_and_deaths_are_counted_apart(tale: Teller) -> None:
    """Unused crashes are no attempts, and unused attempts are no crashes."""
    tale.sent()
    for run in range(1, 4):
        tale.failed(run=run)
    report = tale.judge(found(errors=("ValueError: 1", "ValueError: 2", "ValueError: 3"), attempts=3), crashes=9)
    assert report.violations == ("overrun",)
    assert "failed 3 times, it has 2 attempts" in str(report)
    tale.sent("B")
    for run in range(1, 3):
        tale.ran("B", run)
        tale.lost("B", verdict="ack")
    report = tale.judge(found(errors=("ValueError: 1", "ValueError: 2", "ValueError: 3")), attempts=9)
    assert [finding.why for finding in report.overrun] == ["2 starts died or lost their lease, 1 are allowed"]


def test_an_uncertain_verdict_is_no_death(tale: Teller) -> None:
    """A verdict of which nobody knows may have been carried out, so its run is not counted as one that died."""
    tale.sent()
    for run in range(1, 3):
        tale.ran(run=run)
        tale.event(name="settle.uncertain", verdict="reschedule")
    tale.died("")
    assert kept(tale.judge(duplicates_allowed="unsettled"))


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────


def test_at_most_once_by_job(tale: Teller) -> None:
    """Some jobs may be at most once: acked before a start that never came is their end, and theirs only."""
    for job in "AB":
        tale.sent(job)
        tale.settled(job, verdict="ack")
    report = tale.judge(at_most_once=lambda job: job == "A")
    assert [finding.job for finding in report.lost] == ["B"]


@pytest.mark.parametrize("dies", [True, False])
def test_at_most_once_in_dead_hands(tale: Teller, dies: bool) -> None:
    """Whoever was handed it may have acked it and died before anybody heard of that."""
    tale.sent()
    tale.event(name="received")
    if dies:
        tale.died("")
    assert tale.judge(at_most_once=True).violations == (() if dies else ("lost",))


def test_an_end_without_an_ending(tale: Teller) -> None:
    """Where a store keeps how jobs ended, one that is over without an ending is lost to its caller (C8)."""
    tale.sent()
    tale.ran()
    tale.settled(verdict="ack")
    assert kept(tale.judge())
    assert tale.judge(promised=STORED).violations == ("lost",)
    assert kept(tale.judge(Final({"q": Left()}, {"A": "succeeded"}), promised=STORED))
    assert kept(tale.judge(promised=STORED, at_most_once=True))


def test_acked_unrun_and_said_so(tale: Teller) -> None:
    """A job that was done before is acked without a start, if an event says so."""
    tale.sent()
    tale.settled(verdict="ack")
    assert tale.judge().violations == ("lost",)
    tale.event(name="job.skipped")
    assert kept(tale.judge())


def test_a_client_that_died_while_cancelling(tale: Teller) -> None:
    """It was taken back by somebody who died before he could say so; nobody has to know how it ended."""
    tale.sent()
    tale.cancelled(who="c1")
    assert tale.judge(promised=STORED).violations == ("lost",)
    tale.died("", who="c1")
    assert kept(tale.judge(promised=STORED))


def test_a_known_id_is_a_promise(tale: Teller) -> None:
    """An answer "it is there" confirms a job whose first enqueue nobody was sure of."""
    tale.invoke(queue="q")
    tale.uncertain()
    assert kept(tale.judge())
    tale.invoke(queue="q")
    tale.duplicate()
    assert tale.judge().violations == ("lost",)


def test_sent_again_by_one_who_died(tale: Teller) -> None:
    """Whoever was killed while sending a dead letter again may have done it or not."""
    tale.sent()
    tale.failed(verdict="bury", trail="trail")
    tale.invoke("A2", queue="q", via="replay", replays="A", who="c1")
    assert "lost" in tale.judge().violations
    tale.died("", who="c1")
    assert kept(tale.judge())


def test_sent_again_and_still_there(tale: Teller) -> None:
    """Once it was sent again, its dead letter is gone (C13)."""
    tale.sent()
    tale.failed(verdict="bury", trail="trail")
    tale.replayed(letter="1", into="A2")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    assert tale.judge(final).violations == ("dlq_bad",)
    assert kept(tale.judge())


# ── the same moment ──────────────────────────────────────────────────────────────────────────────


class Frozen(Teller):
    """A clock that stands, as a virtual one does between two waits."""

    def _clock(self) -> float:
        return self.now


def test_the_order_of_one_moment() -> None:
    """A start is behind a verdict or a cancellation if it was recorded behind it, not if it has the same time."""
    tale = Frozen()
    tale.sent()
    tale.failed(after=10.0)
    tale.now = 10.0
    tale.ran(run=2)
    tale.settled(verdict="ack")
    assert kept(tale.judge())
    tale.sent("B")
    tale.cancelled("B")
    tale.ran("B")
    assert tale.judge().violations == ("unexpected",)


def test_unfenced() -> None:
    """A verdict under a lease that another one had been given is refused by whoever fences (C7)."""
    tale = Frozen()
    tale.sent()
    tale.event(name="received", who="w1")
    tale.event(name="received", who="w2")
    tale.settled(verdict="reschedule", who="w2")
    tale.event(name="received", who="w1")
    tale.start(run=1, who="w1")
    tale.end(run=1, outcome="returned", who="w1")
    tale.settled(verdict="ack", who="w1")
    assert kept(tale.judge(promised=FENCED))
    tale.settled(verdict="ack", who="w2")
    assert tale.judge(promised=FENCED).violations == ("unfenced",)
    assert kept(tale.judge())


def test_a_verdict_that_was_under_way(tale: Teller) -> None:
    """A verdict whose call began before the other one had the job may have been carried out in time."""
    tale.sent()
    tale.event(name="received", who="w1")
    tale.ran(who="w1")
    began = tale.now
    tale.event(name="received", who="w2")
    tale.settled(verdict="ack", began=began, who="w1")
    assert kept(tale.judge(promised=FENCED))


# ── copies ───────────────────────────────────────────────────────────────────────────────────────

COPIES = Promised(one_copy=False)


def test_each_copy_has_its_own_attempts(tale: Teller) -> None:
    """A broker that does not notice an id keeps two copies of what was enqueued twice, and each may fail as often."""
    tale.sent()
    tale.sent()
    for run in range(1, 5):
        tale.failed(run=run)
    final = found(errors=("ValueError: 3", "ValueError: 4"))
    assert set(tale.judge(final).violations) == {"dlq_bad", "overrun"}
    assert kept(tale.judge(final, promised=COPIES))
    tale.failed(run=5)
    assert tale.judge(final, promised=COPIES).violations == ("overrun",)


def test_each_copy_may_start_once(tale: Teller) -> None:
    """At most once holds for each copy; one that was enqueued once starts once, whatever the broker keeps."""
    tale.sent()
    tale.sent()
    tale.ran()
    tale.ran(run=2)
    options: dict[str, Any] = {"at_most_once": True, "duplicates_allowed": 9}
    assert tale.judge(**options).violations == ("overrun",)
    assert kept(tale.judge(promised=COPIES, **options))
    tale.sent("B")
    tale.ran("B")
    tale.ran("B", run=2)
    assert [finding.job for finding in tale.judge(promised=COPIES, **options).overrun] == ["B"]


def test_a_copy_does_not_wait_for_the_other(tale: Teller) -> None:
    """A verdict makes its own copy wait; where there is none but one, a start before its time is early."""
    tale.sent()
    tale.sent()
    tale.failed(after=60.0)
    tale.ran(run=2)
    assert tale.judge().violations == ("early",)
    assert kept(tale.judge(promised=COPIES))
    tale.sent("B")
    tale.failed("B", after=60.0)
    tale.ran("B", run=2)
    tale.settled("B", verdict="ack")
    assert [finding.job for finding in tale.judge(promised=COPIES).early] == ["B"]


def test_each_hand_out_may_leave_a_letter(tale: Teller) -> None:
    """Where burying takes two steps, whoever dies between them leaves a letter, and the next one another."""
    tale.sent()
    for who in ("w1", "w2"):
        tale.event(name="received", who=who)
    tale.failed(verdict="bury", trail="trail")
    final = found(errors=("ValueError: 1",), reason="not retryable")
    twice = msgspec.structs.replace(final, letters=final.letters * 2)
    thrice = msgspec.structs.replace(final, letters=final.letters * 3)
    assert tale.judge(twice).violations == ("dlq_bad",)
    assert kept(tale.judge(twice, promised=COPIES))
    assert tale.judge(thrice, promised=COPIES).violations == ("dlq_bad",)


# ── keys, suspects, strangers ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("later", "same", "broken"), [(0.0, False, True), (0.0, True, False), (200.0, False, False)])
def test_outcomes(tale: Teller, later: float, same: bool, broken: bool) -> None:
    """Two jobs with one key within its window have one outcome (C10)."""
    for job in "AB":
        tale.sent(job, task="t", key="k")
        tale.ran(job)
        tale.settled(job, verdict="ack")
        tale.now += later
    values = {"A": "one", "B": "one" if same else "two"}
    final = Final({"q": Left()}, dict.fromkeys("AB", "succeeded"), (), values)
    assert tale.judge(final, promised=KEYED).violations == (("outcomes",) if broken else ())
    assert kept(tale.judge(final))


def test_poison_without_marks(tale: Teller) -> None:
    """Without a store the broker's count of hand-outs stands in for starts, so a neighbour may be poison."""
    tale.sent()
    tale.sent("B")
    tale.ran("B")
    assert kept(tale.judge(found(reason="poison"), promised=Promised(marked=False)))


def test_bytes_that_nobody_can_read(tale: Teller) -> None:
    """They have no id in events, and the same bytes sent twice are two letters."""
    tale.event("", name="listening")
    for _ in range(2):
        tale.sent("raw-1")
        tale.settled("raw-1", verdict="bury", trail="trail")
    letter = Found(id="1", job="raw-1", envelope="bytes", trail="trail", reason="malformed")
    final = Final({"q": Left()}, {}, (letter, msgspec.structs.replace(letter, id="2")))
    assert tale.judge(final).violations == ("silent",)
    tale.event("?", name="job.buried")
    assert kept(tale.judge(final))
    third = msgspec.structs.replace(final, letters=(*final.letters, msgspec.structs.replace(letter, id="3")))
    assert tale.judge(third).violations == ("dlq_bad",)


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
    promised = Promised.by(features, has_store=True, key_window=9.0)
    assert {name: getattr(promised, name) for name in expected} == expected
    assert (promised.results, promised.marked, promised.key_window) == (True, True, 9.0)
    alone = Promised.by(features, has_store=False, key_window=9.0)
    assert (alone.results, alone.marked, alone.key_window) == (False, False, None)


def test_a_report_can_fail(tale: Teller) -> None:
    """A report that found something is an error with its text, behind the story that led to it."""
    tale.sent()
    report = tale.judge(QUIET)
    with pytest.raises(PromisesBroken, match="lost = 1") as caught:
        report.expect_kept()
    assert caught.value.report is report
    assert str(PromisesBroken(report, "enqueue A")) == f"enqueue A →\n{report}"
