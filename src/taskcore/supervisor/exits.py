"""Why a worker process ended, in words, and how long to wait before the next one starts."""

from __future__ import annotations

from pathlib import Path

from taskcore.processes.process import how
from taskcore.toolkit.units import show_size

__all__ = ["OutOfMemory", "Restarts", "describe", "show_memory"]

FAILED_STARTS_LIMIT = 5  #: processes in a row that may end before they were ready
FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0  #: seconds before the next start
DELAY_DOUBLINGS = 10
SETTLED_AFTER = 60.0  #: seconds after which a process that ends counts as the first one again

SIGKILL = -9
EVENTS = Path("/sys/fs/cgroup/memory.events")


class OutOfMemory:
    """Notices when the kernel has killed a process of this container for lack of memory.

    :param events: the counters of the cgroup.
    """

    def __init__(self, events: Path = EVENTS) -> None:
        self._events = events
        self._seen = self._count()

    def has_struck(self) -> bool:
        """Tell whether it has since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        try:
            lines = self._events.read_text("ascii").splitlines()
        except (OSError, ValueError):  # another system, or no container
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def describe(code: int, memory: int, *, out_of_memory: bool) -> str:
    """Say how a worker process ended.

    :param code: as Python gives it: negative for a signal.
    :param memory: the bytes that it last reported; 0 if it reported none.
    """
    said = how(code)
    if code != SIGKILL:
        return said
    last = f"; it last occupied {show_memory(memory)}" if memory else ""
    if out_of_memory:
        return f"{said} by the kernel, because the memory of its cgroup was used up{last}"
    return f"{said}, probably by the kernel for lack of memory (see dmesg), or by hand{last}"


def show_memory(size: int) -> str:
    """Write a size in whole MiB, as people compare it with a limit."""
    return show_size(max(1, round(size / 1_048_576)) * 1_048_576)


class Restarts:
    """Decides when the next process may start, and when there have been too many failed starts."""

    def __init__(self) -> None:
        self.failed_starts = 0  #: in a row
        self._deaths = 0
        self.not_before = 0.0  #: the time of the next start

    @property
    def is_hopeless(self) -> bool:
        """Whether so many processes ended before they were ready that the next one would, too."""
        return self.failed_starts >= FAILED_STARTS_LIMIT

    def was_ready(self) -> None:
        """Note that a process has become ready."""
        self.failed_starts = 0

    def ended(self, now: float, *, lived: float, was_ready: bool, counts: bool = True) -> float:
        """Note that a process ended by itself; return the seconds until the next one may start.

        :param lived: the seconds since it started.
        :param counts: whether a failed start counts.
        """
        if not was_ready and counts:
            self.failed_starts += 1
        self._deaths = 1 if lived >= SETTLED_AFTER else self._deaths + 1
        delay = float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._deaths - 1, DELAY_DOUBLINGS)))
        self.not_before = now + delay
        return delay
