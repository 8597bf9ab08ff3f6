"""Retry policy: attempt × error → seconds to wait, or None when it is over.

    retry k (k = 1, 2, …) waits at most   min(cap, base · factor^(k-1))   seconds;
    jitter="full"   a uniform share of that, so that a thousand jobs that fail together do not return together
    jitter="none"   exactly that

Pure arithmetic, without clock and random generator: the caller brings the random number (C17).
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import Literal

import msgspec

from taskcore.errors import InvalidSetting
from taskcore.toolkit.units import LONGEST_DURATION, duration, shorten_repr

__all__ = ["Errors", "RemoteError", "Retry"]

Errors = tuple[type[BaseException], ...]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how soon a failed job is tried again. A time may also be a timedelta, or text such as ``"5m"``.

    :param attempts: how many starts may end in an error before the job is dead; 1 = no retry.
    :param base: upper bound of the first wait.
    :param factor: growth of that bound from one retry to the next.
    :param cap: no wait is longer than this.
    :param jitter: ``"full"``: uniform between 0 and the bound; ``"none"``: the bound itself.
    :param on: errors that are worth another attempt.
    :param give_up_on: errors that are not, even if ``on`` names their base.
    :raises InvalidSetting: a value is impossible (TC104).
    """

    attempts: int = 5
    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: Literal["full", "none"] = "full"
    on: Errors = (Exception,)
    give_up_on: Errors = ()

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            with suppress(InvalidSetting):  # reported below, with the others
                msgspec.structs.force_setattr(self, name, duration(getattr(self, name)))
        problems = [
            *_not(
                type(self.attempts) is int and self.attempts >= 1,
                "attempts",
                self.attempts,
                "a whole number, at least 1; None instead of a policy means a single attempt",
            ),
            *_not(_is_wait(self.base), "base", self.base, "seconds, at least 0 and at most 100 years"),
            *_not(_finite(self.factor) and self.factor >= 1, "factor", self.factor, "a number, at least 1"),
            *_not(_is_wait(self.cap), "cap", self.cap, "seconds, at least 0 and at most 100 years"),
            *_not(self.jitter in ("full", "none"), "jitter", self.jitter, '"full" or "none"'),
            *_not(_are_errors(self.on), "on", self.on, "a tuple of exception classes"),
            *_not(_are_errors(self.give_up_on), "give_up_on", self.give_up_on, "a tuple of exception classes"),
        ]
        if problems:
            raise InvalidSetting(
                "Retry() cannot mean this", facts=problems, fix="see the defaults in help(taskcore.Retry)"
            )

    def bound(self, failures: int) -> float:
        """Return the longest wait in seconds before the retry that follows the ``failures``-th failed attempt."""
        if self.base == 0.0 or self.cap == 0.0:
            return 0.0
        # In logarithms, because factor ** 1000000 does not fit a float (and neither does its computation end soon).
        exponent = max(failures - 1, 0)
        if math.log(self.base) + exponent * math.log(self.factor) >= math.log(self.cap):
            return self.cap
        return min(self.cap, self.base * self.factor**exponent)

    def wait(self, failures: int, error: BaseException, roll: float) -> float | None:
        """Return the seconds to wait after the ``failures``-th failed attempt, or None when the job has to end.

        :param failures: attempts that have failed so far, this one included.
        :param error: what it raised; a ``TimeoutError`` when it overran its time.
        :param roll: a uniform random number in [0, 1).
        """
        if failures >= self.attempts or not self.retries(error):
            return None
        bound = self.bound(failures)
        return bound * roll if self.jitter == "full" else bound

    def retries(self, error: BaseException) -> bool:
        """Tell whether this kind of error is worth another attempt at all."""
        told = error.retryable if type(error) is RemoteError else None  # not isinstance: it asks the error itself
        if told is not None:
            return told
        return _is_any(error, self.on) and not _is_any(error, self.give_up_on)


class RemoteError(Exception):
    """Stands for an error of another process, whose class stayed there; its text names the class.

    :param retryable: what the policy said there of the error itself; None if it was not asked.
    """

    def __init__(self, text: str, *, retryable: bool | None) -> None:
        super().__init__(text)
        self.retryable = retryable


def _is_any(error: BaseException, classes: Errors) -> bool:
    """Tell whether the error is one of these; an error, or a class, that cannot be asked is none of them."""
    try:
        return isinstance(error, classes)
    except BaseException:  # noqa: BLE001 - `__class__` and metaclasses are code of the task
        return False


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_wait(value: object) -> bool:
    return _finite(value) and 0 <= value <= LONGEST_DURATION  # type: ignore[operator]  # it is a number


def _are_errors(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(item, type) and issubclass(item, BaseException) for item in value
    )


def _not(fits: bool, name: str, value: object, expected: str) -> list[str]:
    return [] if fits else [f"{name}: expected {expected}, got {shorten_repr(value)}"]
