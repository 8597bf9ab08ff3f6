"""Histories that a test writes itself, for the tests of the checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from taskcore.conformance.checking import FoundLetter, Left, Report, Snapshot, check_history
from taskcore.testing.history import History

__all__ = ["QUIET", "HistoryWriter", "found"]

QUIET = Snapshot({"q": Left()})


class HistoryWriter:
    """Tells a history by hand, one second between two entries."""

    def __init__(self) -> None:
        self.now = 0.0
        self.history = History(who="w1", clock=self._clock)

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    def __getattr__(self, kind: str) -> Callable[..., None]:
        def record(job: str = "A", **facts: Any) -> None:
            self.history.record(kind, job, **facts)  # type: ignore[arg-type]

        return record

    def sent(self, job: str = "A", **facts: Any) -> None:
        """Record a job that was enqueued without trouble."""
        self.invoke(job, queue="q", envelope="bytes", **facts)
        self.ok(job)

    def ran(self, job: str = "A", run: int = 1, outcome: str = "returned", **facts: Any) -> None:
        """Record a run that ended."""
        self.start(job, run=run)
        self.end(job, run=run, outcome=outcome, **facts)

    def failed(self, job: str = "A", run: int = 1, verdict: str = "reschedule", **facts: Any) -> None:
        """Record a run that raised, and what was done about it."""
        self.ran(job, run, outcome="raised", error=f"ValueError: {run}")
        self.settled(job, verdict=verdict, **facts)

    def check(self, snapshot: Snapshot = QUIET, **options: Any) -> Report:
        """Check the history with small limits."""
        limits: dict[str, Any] = {"attempts": 2, "crashes": 1, "delta": 0.0, "time_limit": 5.0}
        return check_history(self.history, snapshot, **(limits | options))


def found(job: str = "A", **changes: Any) -> Snapshot:
    """Make a snapshot with a dead letter, and nothing else."""
    letter = FoundLetter(id="1", job=job, envelope="bytes", trail="trail", reason="exhausted", errors=(), attempts=2)
    letter = msgspec.structs.replace(letter, **changes)
    return Snapshot({"q": Left(dead=frozenset({job}))}, {}, (letter,))
