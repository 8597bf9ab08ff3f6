"""The verdict: what started, against what the preview told before the first worker ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Start", "Verdict", "judge"]

EXPLAINED = 10.0  #: seconds after a start within which the death of its process explains another one of the same job


class Start(NamedTuple):
    """A job of a tick began.

    :param at: the tick's instant, in milliseconds since the epoch.
    :param time: when it began, in seconds since the epoch.
    """

    schedule: str
    at: int
    time: float
    process: int
    job: str


class Verdict(NamedTuple):
    """What came of a run.

    :param expected: how many instants the preview told.
    :param missing: instants that the preview told, and that no job began.
    :param strange: instants that a job began, and that the preview did not tell.
    :param doubled: instants with two jobs, or with a job that began again for no reason.
    :param again: how many jobs began again because the worker that ran them was killed.
    :param passed: how many instants the library itself counts as missed, overlapped or lost.
    :param late: by how many seconds each instant began late, ascending.
    """

    expected: int
    missing: list[tuple[str, int]]
    strange: list[tuple[str, int]]
    doubled: list[tuple[str, int]]
    again: int
    passed: int
    late: list[float]

    @property
    def is_clean(self) -> bool:
        """Whether each instant of the preview is one job, and there is no other one."""
        return bool(self.expected) and not (self.missing or self.strange or self.doubled or self.passed)

    def percentile(self, share: float) -> float:
        """Return how late the given share of the instants was at most."""
        return self.late[min(int(len(self.late) * share), len(self.late) - 1)] if self.late else 0.0


def judge(
    preview: Mapping[str, Sequence[int]],
    records: Mapping[str, tuple[int, int]],
    starts: Sequence[Start],
    killed: Mapping[int, float],
    until: float,
) -> Verdict:
    """Compare.

    :param preview: the instants that each schedule had to have.
    :param records: since when each schedule counts, in milliseconds, and how many instants it passed over.
    :param killed: when each process was killed.
    :param until: the last moment whose instants had time to start.
    """
    expected = {
        (schedule, at)
        for schedule, instants in preview.items()
        for at in instants
        if records[schedule][0] < at <= until * 1000
    }
    began: defaultdict[tuple[str, int], list[Start]] = defaultdict(list)
    for start in sorted(starts, key=lambda one: one.time):
        began[start.schedule, start.at].append(start)
    again = 0
    doubled = []
    for instant, times in began.items():
        ends = [killed.get(one.process, 0.0) - one.time for one in times[:-1]]
        if len({one.job for one in times}) > 1 or not all(0 <= end < EXPLAINED for end in ends):
            doubled.append(instant)
        again += len(ends)
    return Verdict(
        expected=len(expected),
        missing=sorted(expected - began.keys()),
        strange=sorted(instant for instant in began.keys() - expected if instant[1] <= until * 1000),
        doubled=sorted(doubled),
        again=again,
        passed=sum(passed for _, passed in records.values()),
        late=sorted(times[0].time - at / 1000 for (schedule, at), times in began.items() if schedule != "spread"),
    )
