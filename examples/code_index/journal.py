"""A journal of each worker process: what it began, and what became of it, as events of the library tell.

``taskcore worker`` loads the app from here, and so a listener with it. Each event is a line, written at once: what a
process wrote before it was killed is there, and that is how the report can say what it had under way.
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

JOURNAL = "CODE_INDEX_JOURNAL"  #: the variable that names the file

#: An event that ends a start. After some of them the job will be started once more, for a reason of its own.
ENDS: Final = frozenset({"job.succeeded", "job.buried", "job.retried", "job.released", "job.lost", "job.deferred"})
TO_BE_STARTED_AGAIN: Final = frozenset({"job.retried", "job.released", "job.deferred"})


@dataclass
class Journal:
    """What one process wrote: for each job its starts, and its ends by their names."""

    begun: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def under_way(self) -> int:
        """Jobs that it began, and of which the broker has not been told the end."""
        return sum(count > self.ended[job] for job, count in self.begun.items())


def keep(path: Path) -> None:
    """Write a line for each event of a job from now on."""
    app.on_event(_writer(path))


def read(path: Path) -> Journal:
    """The journal of a process; it may still be writing, or have been killed in the middle of a line."""
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
    """Jobs that were started once more, and not because their last start had ended in an error or been given back."""
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
