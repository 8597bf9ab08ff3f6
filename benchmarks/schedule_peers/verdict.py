"""Count what a ledger says: for each schedule and each minute one line is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Verdict", "judge"]

MINUTE = 60
EARLY = 0.5  #: seconds by which a tick may come before its minute: clocks of one machine are read at different times


class Verdict(NamedTuple):
    """What became of the ticks of one contender.

    :param due: schedules times minutes.
    :param lost: ticks that did not start within their minute.
    :param doubled: starts beyond the first one of a tick.
    :param late: seconds by which ticks started late, ascending.
    """

    due: int
    lost: int
    doubled: int
    late: list[float]

    def percentile(self, share: float) -> float:
        """Return how late the given share of the ticks was at most."""
        return self.late[min(int(len(self.late) * share), len(self.late) - 1)] if self.late else float("nan")


def judge(lines: Iterable[tuple[str, float]], schedules: Iterable[str], minutes: Iterable[int]) -> Verdict:
    """Count.

    :param lines: a schedule and the second since the epoch at which its job started.
    :param minutes: the minutes since the epoch that count.
    """
    starts: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for schedule, at in lines:
        starts[schedule, int(at + EARLY) // MINUTE].append(at)
    due = [(schedule, minute) for schedule in schedules for minute in minutes]
    found = [(minute, sorted(starts[schedule, minute])) for schedule, minute in due if starts[schedule, minute]]
    return Verdict(
        due=len(due),
        lost=len(due) - len(found),
        doubled=sum(len(times) - 1 for _, times in found),
        late=sorted(max(times[0] - minute * MINUTE, 0.0) for minute, times in found),
    )
