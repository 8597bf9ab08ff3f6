"""Control: the exceptions by which a function decides about its own job."""

from __future__ import annotations

from taskcore.toolkit.units import LONGEST_DURATION, Duration, seconds_of

__all__ = ["Reject", "RetryLater", "Snooze", "time_of"]


class RetryLater(Exception):
    """Raise it in a task to be tried again after a time of your choice; it uses an attempt.

    :param after: seconds, a timedelta, or text such as ``"5m"``.
    :param why: kept in the trail.
    """

    def __init__(self, after: Duration, why: str = "") -> None:
        super().__init__(after, why)
        self.after = seconds_of("after", after)
        self.why = why

    def __str__(self) -> str:
        return self.why or f"asked to be tried again in {self.after:g} s"


class Snooze(Exception):
    """Raise it in a task to be started again later without using an attempt, because it is too early.

    :param after: seconds, a timedelta, or text such as ``"5m"``.
    """

    def __init__(self, after: Duration) -> None:
        super().__init__(after)
        self.after = seconds_of("after", after)

    def __str__(self) -> str:
        return f"asked to sleep for {self.after:g} s"


class Reject(Exception):
    """Raise it in a task to end the job now as a dead letter: no further attempt can help.

    :param reason: why, for readers of the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def time_of(error: BaseException) -> float | None:
    """Read the time that the error names; a subclass that forgot to set it is an error like any other: None."""
    try:
        after = error.after  # type: ignore[attr-defined]  # what a subclass has there can be anything
        return float(after) if _is_time(after) else None
    except BaseException:  # noqa: BLE001 - it may be a property, and end as it likes
        return None


def _is_time(after: object) -> bool:
    return isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after <= LONGEST_DURATION
