"""The ledger: one append-only file for each process, one JSON line for each thing that it did or was told.

    ledger = Ledger(folder / "worker-1.3.jsonl", "worker-1.3")
    ledger.write("started", job.id, attempt=1)

Each line is one ``os.write``: what was written survives the death of its process, because the kernel has it. Nothing
here uses the library that is tested. Times are ``time.time()``, one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread

__all__ = ["Ledger", "LedgerLine", "from_environment", "note", "read_all", "read_beside"]

PATH, WHO = "SOAK_LEDGER", "SOAK_WHO"  #: the variables that name a child's ledger and the child


class LedgerLine(NamedTuple):
    """One thing that happened.

    :param at: seconds since the epoch.
    :param who: the process: its role and the number of its life; a worker's process id, too: ``worker-fleet.3/4711``.
    :param what: ``sending``, ``confirmed``, ``started``, ``finished``, ``died``, …
    :param job: empty if it is about no job.
    """

    at: float
    who: str
    what: str
    job: str = ""
    facts: Mapping[str, Any] = {}

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.who:<14} {self.what:<10} {facts}".rstrip()


class Ledger:
    """Where one process writes; also the processes that it starts."""

    def __init__(self, path: Path, who: str) -> None:
        self.who = who
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, what: str, job: str = "", **facts: Any) -> None:
        """Write one line."""
        self.write_many([(what, job, facts)])

    def write_many(self, lines: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Write several lines at once, with one time."""
        at = time.time()
        texts = (json.dumps([at, self.who, what, job, facts]) + "\n" for what, job, facts in lines)
        os.write(self._file, "".join(texts).encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def from_environment() -> Ledger:
    """Open the ledger that the environment names."""
    return Ledger(Path(os.environ[PATH]), os.environ[WHO])


def note(what: str, job: str = "", **facts: Any) -> None:
    """Write one line into the ledger that the environment names."""
    ledger = from_environment()
    ledger.write(what, job, **facts)
    ledger.close()


def read_all(folder: Path) -> list[LedgerLine]:
    """Read every ledger of a folder, in the order of times; the end of a line that a kill cut short is left out."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        lines += [LedgerLine(*json.loads(text)) for text in whole.splitlines()]
    return sorted(lines, key=lambda line: line.at)


async def read_beside(folder: Path) -> list[LedgerLine]:
    """Read all ledgers in a thread: proxies live in the loop of the harness, and stand still when it does."""
    return await anyio.to_thread.run_sync(read_all, folder)
