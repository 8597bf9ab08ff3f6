"""Report: what the checker found, with the history of every job that it found something about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from taskcore.testing.history import HistoryEntry

__all__ = ["COUNTS", "GuaranteesBroken", "Report", "Violation"]

#: The counts, in the order in which a report names them, and what each of them means.
COUNTS: Mapping[str, str] = {
    "lost": "enqueued, and nowhere to be found",
    "unexpected": "started although it was not enqueued, or after it was taken back",
    "duplicated": "runs that no failed or interrupted run called for",
    "effects": "effects that were done more than once",
    "outcomes": "one key, and more than one outcome",
    "stuck": "neither ended nor dead when everything was quiet",
    "early": "started before its time",
    "late": "started after its deadline",
    "misordered": "started behind one that was enqueued later",
    "unfenced": "settled by a worker whose lease was over",
    "overrun": "started more often than attempts and crashes allow",
    "silent": "something happened that no event told",
    "hang": "a call that took longer than it may",
    "dlq_bad": "a dead letter that does not tell the truth",
}

HISTORIES_SHOWN = 5  #: histories that a report's text tells; the other jobs are only named


class Violation(msgspec.Struct, frozen=True):
    """One job about which something is wrong, and what. For effects ``job`` is the effect's key."""

    job: str
    why: str


class GuaranteesBroken(AssertionError):
    """The checker found a broken guarantee; the text is the report, after the steps that led to it if known."""

    def __init__(self, report: Report, steps: str = "") -> None:
        super().__init__(f"{steps} →\n{report}" if steps else str(report))
        self.report = report
        self.steps = steps


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the checker counted; each list has one finding for each job. ``print(report)`` shows the histories.

    :param recovered: jobs whose enqueue was uncertain and that ran; that is allowed.
    :param allowed: how many duplicates the test allows: runs, effects.
    """

    lost: Sequence[Violation] = ()
    unexpected: Sequence[Violation] = ()
    duplicated: Sequence[Violation] = ()
    effects: Sequence[Violation] = ()
    outcomes: Sequence[Violation] = ()
    stuck: Sequence[Violation] = ()
    early: Sequence[Violation] = ()
    late: Sequence[Violation] = ()
    misordered: Sequence[Violation] = ()
    unfenced: Sequence[Violation] = ()
    overrun: Sequence[Violation] = ()
    silent: Sequence[Violation] = ()
    hang: Sequence[Violation] = ()
    dlq_bad: Sequence[Violation] = ()
    recovered: Sequence[str] = ()
    duplicate_runs: int = 0
    duplicate_effects: int = 0
    allowed: tuple[int, int] = (0, 0)
    histories: Mapping[str, Sequence[HistoryEntry]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Each count by its name; for duplicates how many there are, else how many jobs."""
        numbers = {name: len(getattr(self, name)) for name in COUNTS}
        return numbers | {"duplicated": self.duplicate_runs, "effects": self.duplicate_effects}

    @property
    def broken(self) -> bool:
        """Whether a promise was broken: any count above zero, duplicates above what the test allows."""
        return bool(self.violations)

    @property
    def violations(self) -> tuple[str, ...]:
        """The names of the counts that are too high."""
        allowed: dict[str, int] = {"duplicated": self.allowed[0], "effects": self.allowed[1]}
        return tuple(name for name, number in self.counts.items() if number > allowed.get(name, 0))

    def expect_kept(self) -> None:
        """Raise unless all promises were kept.

        :raises GuaranteesBroken: with the report as its text.
        """
        if self.broken:
            raise GuaranteesBroken(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self.broken:
            yield f"all promises kept ({len(self.histories)} jobs, {len(self.recovered)} uncertain ones ran)"
            return
        offenders: list[str] = []
        for name in self.violations:
            findings: Sequence[Violation] = getattr(self, name)
            yield f"{name} = {self.counts[name]}: {COUNTS[name]}"
            for finding in findings:
                yield f"    {finding.job}: {finding.why}"
                offenders.append(finding.job)
        shown = [job for job in dict.fromkeys(offenders) if job in self.histories]
        for job in shown[:HISTORIES_SHOWN]:
            yield ""
            yield from self._history_of(job)
        if len(shown) > HISTORIES_SHOWN:
            yield ""
            yield f"… and {len(shown) - HISTORIES_SHOWN} more histories in report.histories"

    def _history_of(self, job: str) -> Iterator[str]:
        """Write one job from its beginning to its end; times in seconds since its first entry."""
        entries = self.histories[job]
        yield f"the history of {job}, in seconds since its beginning:"
        for entry in entries:
            yield f"  {entry.at - entries[0].at:>9.3f}  {entry}"
