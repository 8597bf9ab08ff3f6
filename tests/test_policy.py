"""The retry policy, as arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore import InvalidSetting, Retry
from taskcore.toolkit.units import LONGEST_DURATION

seconds = st.floats(min_value=0, max_value=LONGEST_DURATION, allow_nan=False)
policies = st.builds(
    Retry,
    attempts=st.integers(1, 10**9),
    base=seconds,
    factor=st.floats(min_value=1, max_value=1e300),
    cap=seconds,
    jitter=st.sampled_from(["full", "none"]),
)
rolls = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(policies, st.integers(1, 10**9), rolls)
def test_bounds(policy, failures, roll):
    """A wait lies between zero and the cap, for any attempt and any numbers, without overflow."""
    wait = policy.wait(failures, OSError(), roll)

    if failures >= policy.attempts:
        assert wait is None
    else:
        assert 0 <= wait <= policy.cap
        assert math.isfinite(wait)


@given(policies, st.integers(1, 10**6))
def test_the_bound_never_decreases(policy, failures):
    """The bound grows with each failure until it reaches the cap, and stays there."""
    assert policy.bound(failures) <= policy.bound(failures + 1) <= policy.cap


def test_absurd_attempt():
    """The millionth attempt waits for the cap; the power is never computed."""
    assert Retry(attempts=10**7).bound(10**6) == 300.0


@given(policies, st.integers(1, 10**6), rolls)
def test_jitter_range(policy, failures, roll):
    """Full jitter is that share of the bound which the dice say; no jitter is the bound."""
    wait = policy.wait(failures, OSError(), roll)

    if wait is not None:
        expected = policy.bound(failures) * (roll if policy.jitter == "full" else 1)
        assert expected == wait


def test_documented_defaults():
    """The first waits of the default policy are bounded by 1, 2, 4, 8 s, and the fifth failure is the last."""
    policy = Retry(jitter="none")

    assert [policy.wait(failures, OSError(), 0.5) for failures in range(1, 6)] == [1.0, 2.0, 4.0, 8.0, None]


@pytest.mark.parametrize(
    ("policy", "error", "retried"),
    [
        (Retry(), OSError(), True),
        (Retry(), SystemExit(), False),
        (Retry(on=(ConnectionError,)), ConnectionResetError(), True),
        (Retry(on=(ConnectionError,)), ValueError(), False),
        (Retry(give_up_on=(ValueError,)), UnicodeDecodeError("utf8", b"", 0, 1, ""), False),
        (Retry(on=(OSError,), give_up_on=(FileNotFoundError,)), FileNotFoundError(), False),
    ],
)
def test_errors_are_chosen_by_class(policy, error, retried):
    """`on` says what is worth another attempt, `give_up_on` takes away from it; subclasses count."""
    assert policy.retries(error) is retried
    assert (policy.wait(1, error, 0.5) is not None) is retried


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": True},
        {"base": -1},
        {"base": float("nan")},
        {"cap": float("inf")},
        {"cap": 1e300},
        {"base": 1e10, "cap": 10},
        {"factor": 0.5},
        {"jitter": "some"},
        {"on": ValueError},
        {"give_up_on": ("ValueError",)},
    ],
)
def test_impossible_values(wrong):
    """A value that cannot be meant is refused at once, with its name."""
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        Retry(**wrong)


def test_all_problems_at_once():
    """Two mistakes are reported together."""
    with pytest.raises(InvalidSetting) as caught:
        Retry(attempts=0, factor=0)

    assert len(caught.value.facts) == 2


def test_classes_that_cannot_be_asked_match_nothing():
    """A class in `on` or `give_up_on` whose metaclass raises is none of the error's classes, and ends no worker."""

    class Meta(type):
        def __instancecheck__(cls, error: object) -> bool:
            raise SystemExit(7)

    class Odd(Exception, metaclass=Meta):
        pass

    assert Retry(on=(Odd,)).retries(ValueError()) is False
    assert Retry(give_up_on=(Odd,)).retries(ValueError()) is True
