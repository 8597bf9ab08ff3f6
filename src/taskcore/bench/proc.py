"""What processes cost, from /proc: of a whole group with all that it started, because a server may be several."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["UsageWatch", "cpu_of", "folder_size", "has_proc", "memory_of"]

PROC = Path("/proc")
PARENT, GROUP, UTIME, STIME, RSS = 1, 2, 11, 12, 21  #: fields of /proc/…/stat, counted behind the name in parentheses


def has_proc() -> bool:
    """Tell whether this system has ``/proc``."""
    return (PROC / "self" / "stat").exists()


def cpu_of(group: int) -> float:
    """Return the seconds of CPU that the processes of a group have used so far."""
    return sum(int(fields[UTIME]) + int(fields[STIME]) for fields in _group(group)) / os.sysconf("SC_CLK_TCK")


def memory_of(group: int) -> int:
    """Return the bytes of memory that the processes of a group hold."""
    return sum(int(fields[RSS]) for fields in _group(group)) * os.sysconf("SC_PAGE_SIZE")


def folder_size(folder: Path) -> int:
    """Return the bytes that the files below a folder take up."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_blocks * 512 if file.is_file() else 0
        except FileNotFoundError:  # servers replace their files
            continue
    return total


def _group(group: int) -> Iterator[list[str]]:
    """Yield the processes of a group, and those that they started in groups of their own."""
    found: dict[int, list[str]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
    family = {pid for pid, fields in found.items() if int(fields[GROUP]) == group}
    while more := {pid for pid, fields in found.items() if pid not in family and int(fields[PARENT]) in family}:
        family |= more
    yield from (found[pid] for pid in family)


class UsageWatch:
    """Runs from when it is made: seconds, and the CPU of this process and of the broker.

    :param broker_cpu: seconds of CPU that the broker has used so far; None if unknown.
    """

    def __init__(self, broker_cpu: Callable[[], float | None]) -> None:
        self._broker_cpu = broker_cpu
        self._broker = broker_cpu()
        self._cpu = time.process_time()
        self._start = time.perf_counter()

    def stop(self, jobs: int) -> tuple[float, dict[str, float]]:
        """Return the seconds, and µs of CPU a job as facts: ``cpu``, and ``broker_cpu`` if it is known."""
        seconds = time.perf_counter() - self._start
        facts = {"cpu": (time.process_time() - self._cpu) / jobs * 1e6}
        broker = self._broker_cpu()
        if broker is not None and self._broker is not None:
            facts["broker_cpu"] = max(broker - self._broker, 0.0) / jobs * 1e6
        return seconds, facts
