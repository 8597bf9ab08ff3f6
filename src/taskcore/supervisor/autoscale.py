"""How many worker processes there should be: a pure decision over what was measured.

A process is added when jobs wait although there are processes: after two looks in a row, because one burst ends by
itself. One is taken away when nothing has waited and the rest would be less than half busy, for ten looks in a row.
Between the two nothing changes, so a steady load leads to a steady number.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Load", "Trend", "decide"]

OLD_JOB_AGE = 1.0  #: seconds for which a job waits where the processes do not keep up
BUSY_UTILISATION = 0.8  #: utilisation from which jobs that wait are too many
SPARE_UTILISATION = 0.5  #: utilisation which the remaining processes may have at most when one is taken away
BUSY_LOOKS, QUIET_LOOKS = 2, 10  #: looks in a row that have to agree


class Load(NamedTuple):
    """What was measured.

    :param ready: the jobs that wait in all queues.
    :param oldest: the age of the oldest of them in seconds; None where the broker does not tell.
    :param running: the functions that run in all processes.
    :param utilisation: the busy part of the processes, from 0 to 1.
    """

    ready: int
    oldest: float | None
    running: int
    utilisation: float


class Trend(NamedTuple):
    """How many looks in a row have seen too much to do, and too little."""

    busy: int = 0
    quiet: int = 0


def decide(now: int, least: int, most: int, slots: int, load: Load, trend: Trend) -> tuple[int, Trend]:
    """Decide how many processes there should be.

    :param now: how many there are.
    :param least: there are never fewer …
    :param most: … nor more.
    :param slots: the jobs that one process runs at once.
    """
    trend = Trend(trend.busy + 1 if _is_busy(load) else 0, trend.quiet + 1 if _is_quiet(now, load) else 0)
    if trend.busy >= BUSY_LOOKS and now < most:
        backlog = load.ready > now * slots  # more waits than they can even begin
        return min(most, now * 2 if backlog else now + 1), Trend()
    needed = -(-load.running // slots)
    if trend.quiet >= QUIET_LOOKS and now > max(least, needed):
        return now - 1, Trend()
    return max(least, min(now, most)), trend


def _is_busy(load: Load) -> bool:
    if not load.ready:
        return False
    return load.utilisation >= BUSY_UTILISATION or (load.oldest or 0.0) >= OLD_JOB_AGE


def _is_quiet(now: int, load: Load) -> bool:
    return not load.ready and now > 1 and load.utilisation * now / (now - 1) < SPARE_UTILISATION
