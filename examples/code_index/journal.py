"""A journal of each worker process: the events of the jobs that it started and ended.

``taskcore worker`` loads the app from this module, and with it a listener. Each event is a line, written at once:
the lines of a killed process remain, and the report reads from them what it had under way.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from examples.code_index.tasks import app
from taskcore import Event

__all__ = ["JOURNAL", "Journal", "app", "begun_again", "keep", "read"]

JOURNAL = "CODE_INDEX_JOURNAL"  #: the environment variable that names the file

#: Events that end a start. After some of them the job is started once more, for a known reason.
ENDS: Final = frozenset({"job.succeeded", "job.buried", "job.retried", "job.released", "job.lost", "job.deferred"})
TO_BE_STARTED_AGAIN: Final = frozenset({"job.retried", "job.released", "job.deferred"})


@dataclass
class Journal:
    """The events of one process: the starts and ends of each job."""

    begun: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def under_way(self) -> int:
        """The number of jobs that the process began and has not settled."""
        return sum(count > self.ended[job] for job, count in self.begun.items())


def keep(path: Path) -> None:
    """Write a line for each event of a job from now on."""
    app.on_event(_writer(path))


def read(path: Path) -> Journal:
    """Read the journal of a process, which may still be writing, or was killed in the middle of a line."""
    journal = Journal()
    text = path.read_text(encoding="ascii") if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        name, _, job = line.partition(" ")
        journal.events[name] += 1
        if name == "job.started":
            journal.begun[job] += 1
        if name in ENDS:
            journal.ended[job] += 1
        if name in TO_BE_STARTED_AGAIN:
            journal.explained[job] += 1
    return journal


def begun_again(journals: Iterable[Journal]) -> int:
    """Count jobs that were started again although their last start had not ended in an error or a release."""
    starts: Counter[str] = Counter()
    for journal in journals:
        starts.update(journal.begun)
        starts.subtract(journal.explained)
    return sum(count > 1 for count in starts.values())


def _writer(path: Path) -> Callable[[Event], None]:
    file = path.open("ab", buffering=0)  # as long as the process lives

    def write(event: Event) -> None:
        job = event.facts.get("job_id")
        if job is not None:
            file.write(f"{event.name} {job}\n".encode("ascii"))

    return write


if JOURNAL in os.environ:
    keep(Path(os.environ[JOURNAL]))
