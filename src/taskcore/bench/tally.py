"""Which jobs ran, how often, from when to when: kept in memory by the process that runs them, the same for all.

Only the standard library is imported, so that programs without taskcore can load this file by its path.

A job's argument is a text of the wanted size that begins with the job's number and the time at which it was to be sent:

    "000000042 81234.567890 xxxx…"          seconds of time.monotonic(), one clock for all processes of a machine
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Tally", "number_of", "payload"]

POLL_SECONDS = 0.01  #: seconds between two reads of the count


def payload(number: int, size: int = 200, due: float = 0.0) -> str:
    """Make the argument of one job."""
    return f"{number:09d} {due:017.6f} ".ljust(size, "x")


def number_of(data: str) -> int:
    """Read the number of a job from its argument."""
    return int(data[:9])


class Tally:
    """Counts the jobs of this process.

    :param timed: note how long after its intended time each job has started.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self.timed = timed
        self.begin()

    def begin(self) -> None:
        """Begin from nothing."""
        self.numbers: list[int] = []
        self.latencies: list[float] = []
        self.first = self.last = self.cpu_first = self.cpu_last = 0.0

    def mark(self, data: str) -> None:
        """Note that one job starts; as it does nothing else, this is also its end."""
        now = time.monotonic()
        if not self.numbers:
            self.first, self.cpu_first = now, time.process_time()
        self.numbers.append(int(data[:9]))
        if self.timed:
            self.latencies.append(now - float(data[10:27]))
        self.last = now

    def pulse(self, path: str | os.PathLike[str]) -> None:
        """Write the count where another process looks; call it every now and then. Notes the CPU time, too."""
        self.cpu_last = time.process_time()
        scratch = Path(f"{os.fspath(path)}.new")
        scratch.write_text(str(len(self.numbers)))
        scratch.replace(path)

    def report(self) -> dict[str, Any]:
        """Return all of it, for JSON. Memory in bytes: the most that this process ever had."""
        return {
            "numbers": self.numbers,
            "latencies": self.latencies,
            "first": self.first,
            "last": self.last,
            "cpu": max(self.cpu_last - self.cpu_first, 0.0),
            "rss": _peak(),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report, whole or not at all."""
        scratch = Path(f"{os.fspath(path)}.new")
        scratch.write_text(json.dumps(self.report()))
        scratch.replace(path)


def _peak() -> int:
    """Return the most memory that this program ever held. On Linux maxrss counts the parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
