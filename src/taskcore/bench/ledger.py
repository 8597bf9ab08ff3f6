"""A file in which jobs sign when they start and when they end, so that no death of a process can hide anything.

One line for each event, written with one system call: what the kernel has outlives the process that wrote it.
Only the standard library is imported, as in ``tally``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["JobLedger", "LedgerEntry", "Reconciliation", "reconcile"]


class LedgerEntry(NamedTuple):
    """Something that happened to a job: ``"start"`` or ``"end"``."""

    what: str
    number: int
    when: float
    pid: int


class JobLedger:
    """One file, shared by all processes of a scenario."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, number: int) -> None:
        """Sign."""
        os.write(self._file, f"{what} {number} {time.monotonic():.6f} {os.getpid()}\n".encode())

    def close(self) -> None:
        """Close the file; what was written stays."""
        os.close(self._file)

    def read(self) -> list[LedgerEntry]:
        """Return everything that was signed so far, in order."""
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [LedgerEntry(what, int(number), float(when), int(pid)) for what, number, when, pid in lines]

    def ended(self) -> int:
        """Count the different jobs that have ended."""
        return len({entry.number for entry in self.read() if entry.what == "end"})


class Reconciliation(NamedTuple):
    """What became of the jobs that were accepted.

    :param lost: accepted, and never ended.
    :param duplicated: ended more than once, so that their effect is there twice.
    :param restarted: started more often than once.
    :param unknown: ended, and never accepted.
    """

    sent: int
    lost: int
    duplicated: int
    restarted: int
    unknown: int


def reconcile(sent: Collection[int], entries: Iterable[LedgerEntry]) -> Reconciliation:
    """Compare what was accepted with what was signed."""
    starts: Counter[int] = Counter()
    ends: Counter[int] = Counter()
    for entry in entries:
        (starts if entry.what == "start" else ends)[entry.number] += 1
    accepted = set(sent)
    return Reconciliation(
        sent=len(accepted),
        lost=len(accepted - ends.keys()),
        duplicated=sum(1 for number in accepted if ends[number] > 1),
        restarted=sum(1 for number in accepted if starts[number] > 1),
        unknown=len(ends.keys() - accepted),
    )
