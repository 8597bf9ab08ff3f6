"""The rule book: decide() is total, pure, and keeps its table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskcore.lifecycle as rules_module
from taskcore import Reject, Retry, RetryLater, Snooze
from taskcore.config import Settings
from taskcore.envelope import ErrorRecord, Trail, decode_trail, encode_trail
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import (
    ENDS,
    Ack,
    AlreadyDone,
    Buried,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Interrupted,
    Malformed,
    Outcome,
    Poisoned,
    Raised,
    Release,
    Returned,
    Rules,
    TimedOut,
    Unencodable,
    Unregistered,
    decide,
    is_last_start,
    is_poison,
)
from taskcore.lifecycle import Reschedule as Again
from taskcore.options import CRASHES

SETTINGS = Settings()


def rules_with(*, retry: Retry = SETTINGS.retry, crashes: int = CRASHES, park_for: float = SETTINGS.park_for) -> Rules:
    """Make the rules of a task that sets nothing but these."""
    return Rules(retry=retry, crashes=crashes, park_for=park_for)


NOTHING_YET, DEFAULTS = Trail(), rules_with()
RECORD = ErrorRecord(type="E", message="m", when=1.0, worker="w", attempt=1)

times = st.floats(0, 1e6)
errors = st.sampled_from([ValueError("v"), OSError("o"), SystemExit(), Reject("never"), RetryLater(7.0), Snooze(9.0)])
outcomes = st.one_of(
    st.builds(Returned, st.binary()),
    st.builds(AlreadyDone, st.binary()),
    st.builds(Deferred, times),
    st.builds(Raised, errors, st.just(RECORD)),
    st.just(TimedOut(RECORD)),
    st.just(Unencodable(RECORD)),
    st.builds(Malformed, st.text(max_size=5)),
    st.builds(Unregistered, st.text(max_size=5), times),
    st.just(Interrupted()),
    st.builds(Poisoned, st.integers(0, 9)),
    st.builds(Buried, st.text(max_size=5)),
    st.just(CancelledBefore()),
    st.just(DeadlinePassed()),
)
trails = st.builds(
    Trail,
    attempts=st.integers(0, 10),
    crashes=st.integers(0, 5),
    copies=st.integers(0, 20),
    parked_since=st.none() | times,
)
all_rules = st.builds(
    Rules,
    retry=st.builds(Retry, attempts=st.integers(1, 8), give_up_on=st.sampled_from([(), (ValueError,)])),
    crashes=st.integers(1, 5),
    park_for=times,
)
rolls = st.floats(0, 1, exclude_max=True)


@given(outcomes, trails, all_rules, rolls)
def test_total_and_pure(outcome, trail, rules, roll):
    """Every outcome has a verdict, and the same question has the same answer."""
    verdict = decide(outcome, trail, rules, roll=roll)

    assert isinstance(verdict, Ack | Again | Release | Bury)
    assert decide(outcome, trail, rules, roll=roll) == verdict


def test_the_strategy_above_knows_every_outcome():
    """A new outcome has to be added to these tests."""
    named = set(
        re.findall(r"(\w+)\(", Path(__file__).read_text(encoding="utf-8").split("outcomes = ")[1].split("trails =")[0])
    )
    named |= {"Returned", "AlreadyDone", "Deferred", "Raised", "Malformed", "Unregistered", "Poisoned", "Buried"}

    assert {kind.__name__ for kind in get_args(Outcome)} <= named


def test_the_table_knows_every_outcome():
    """The table at the top of the file names every outcome."""
    table = (rules_module.__doc__ or "").split("outcome  ")[1]

    assert [kind.__name__ for kind in get_args(Outcome) if kind.__name__ not in table] == []


@given(outcomes, trails, all_rules, rolls)
def test_what_ends_a_job_is_what_is_acked(outcome, trail, rules, roll):
    """A worker that meets one of ``ENDS`` need not ask: ``decide`` acks these outcomes, and no others."""
    assert (type(outcome) in ENDS) == isinstance(decide(outcome, trail, rules, roll=roll), Ack)


@given(outcomes, trails, all_rules, rolls)
def test_counters_never_decrease(outcome, trail, rules, roll):
    """Attempts, crashes, copies and errors in a verdict's trail are never less than before (C5)."""
    verdict = decide(outcome, trail, rules, roll=roll)

    if isinstance(verdict, Again | Bury):
        after = decode_trail(verdict.trail)
        assert after.attempts >= trail.attempts
        assert after.crashes >= trail.crashes
        assert after.copies >= trail.copies
        assert after.errors[: len(trail.errors)] == trail.errors


@given(trails, all_rules, rolls, st.sampled_from([OSError("o"), ValueError("v"), RetryLater(3.0)]))
def test_attempts_are_bounded(trail, rules, roll, error):
    """An error never leads to more attempts than the policy allows (C3)."""
    verdict = decide(Raised(error, RECORD), trail, rules, roll=roll)

    if trail.attempts + 1 >= rules.retry.attempts:
        assert isinstance(verdict, Bury)
    assert decode_trail(verdict.trail).attempts == trail.attempts + 1


def verdict_on(outcome, trail=NOTHING_YET, rules=DEFAULTS):
    """Decide the verdict, with everything else as by default."""
    return decide(outcome, trail, rules, roll=0.5)


@pytest.mark.parametrize("outcome", [Returned(b"1"), AlreadyDone(b"1"), CancelledBefore(), DeadlinePassed()])
def test_done(outcome):
    """What is over is acknowledged."""
    assert verdict_on(outcome) == Ack()


def test_exhausted_is_not_the_same_as_not_retryable():
    """The reason of a dead letter says whether patience ran out or there was no point."""
    no_more = rules_with(retry=Retry(attempts=1))
    no_point = rules_with(retry=Retry(give_up_on=(ValueError,)))

    assert verdict_on(Raised(ValueError("v"), RECORD), rules=no_more).reason == "exhausted"
    assert verdict_on(Raised(ValueError("v"), RECORD), rules=no_point).reason == "not retryable"


def test_time_outs_are_failures():
    """Overrunning uses an attempt and follows the policy, as a TimeoutError."""
    assert isinstance(verdict_on(TimedOut(RECORD)), Again)
    assert (
        verdict_on(TimedOut(RECORD), rules=rules_with(retry=Retry(give_up_on=(TimeoutError,)))).reason
        == "not retryable"
    )


def test_retry_later_uses_an_attempt():
    """The function chooses the time, not the number of attempts."""
    verdict = verdict_on(Raised(RetryLater(7.0), RECORD))

    assert verdict.after == 7.0
    assert decode_trail(verdict.trail).attempts == 1


@given(trails, all_rules, st.sampled_from([Raised(Snooze(9.0), RECORD), Deferred(9.0, "its key is held")]))
def test_waiting_uses_no_attempt(trail, rules, outcome):
    """Sleeping, or waiting for a key, never uses up a job."""
    verdict = decide(outcome, trail, rules, roll=0.5)

    assert verdict.after == 9.0
    assert decode_trail(verdict.trail).attempts == trail.attempts
    assert decode_trail(verdict.trail).errors == trail.errors


def test_reject():
    """A rejected job is dead at once, with the function's own reason."""
    record = ErrorRecord(type="E", message="card is stolen", when=1.0, worker="w", attempt=1)

    assert verdict_on(Raised(Reject("card is stolen"), record)).reason == "rejected: card is stolen"


def test_unencodable_result_is_never_repeated():
    """The work is done: the job is dead, whatever the policy would still allow."""
    assert verdict_on(Unencodable(RECORD)).reason == "result"


def test_interrupted_costs_nothing():
    """Shutdown gives the job back as it was; one that had started is a new copy, whose fence is higher."""
    assert verdict_on(Interrupted(), Trail(attempts=3)) == Release()
    again = verdict_on(Interrupted(started=True), Trail(attempts=3, copies=1))
    assert again == Again(0.0, encode_trail(Trail(attempts=3, copies=2)))


def test_parking():
    """An unknown task waits longer each time, uses no attempt, and is dead after its time, not before."""
    rules = rules_with(park_for=3600.0)
    trail, now, waits = Trail(), 1_000.0, []
    while isinstance(verdict := decide(Unregistered("?", now), trail, rules, roll=0.5), Again):
        waits.append(verdict.after)
        trail = decode_trail(verdict.trail)
        now += verdict.after

    assert waits[:4] == [1.0, 1.0, 2.0, 4.0]
    assert max(waits) == 60.0
    assert now - 1_000.0 >= 3600.0
    assert trail.attempts == 0
    assert verdict.reason == "unknown task: ?"


@given(all_rules)
def test_poison(rules):
    """A job may start as often as `crashes` says, and the last of these starts is the one that runs alone (C12)."""
    starts = 0
    while not is_poison(starts, rules):
        assert is_last_start(starts, rules) is (starts == rules.crashes - 1)
        starts += 1

    assert starts == rules.crashes
    assert verdict_on(Poisoned(starts), rules=rules).reason == "poison"


@pytest.mark.parametrize("control", [RetryLater, Snooze])
def test_no_time_said(control):
    """A subclass that forgets to say when is an error like any other."""
    error = control.__new__(type("Forgetful", (control,), {}))

    assert verdict_on(Raised(error, RECORD), rules=rules_with(retry=Retry(attempts=1))).reason == "exhausted"


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), "soon", True, None, 10**400])
@pytest.mark.parametrize("control", [RetryLater, Snooze])
def test_impossible_times(control, wrong):
    """RetryLater and Snooze refuse what is not a time."""
    with pytest.raises(InvalidSetting):
        control(wrong)
