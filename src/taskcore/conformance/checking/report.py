"""Report: what the checker found, with the story of every job that it found something about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from taskcore.testing.history import Entry

__all__ = ["COUNTS", "Finding", "PromisesBroken", "Report"]

#: The counts, in the order in which a report names them, and what each of them means.
COUNTS: Mapping[str, str] = {
    "lost": "enqueued, and nowhere to be found",
    "unexpected": "started although nobody enqueued it, or after it was taken back",
    "duplicated": "runs that no failed or interrupted run called for",
    "effects": "effects that were done more than once",
    "outcomes": "one key, and more than one outcome",
    "stuck": "neither ended nor dead when everything was quiet",
    "early": "started before its time",
    "late": "started after its deadline",
    "misordered": "started behind one that was enqueued later",
    "unfenced": "settled by somebody whose lease was over",
    "overrun": "started more often than attempts and crashes allow",
    "silent": "something happened that no event told",
    "hang": "a call that took longer than it may",
    "dlq_bad": "a dead letter that does not tell the truth",
}

STORIES = 5  #: stories that a report's text tells; the other jobs are only named


class Finding(msgspec.Struct, frozen=True):
    """One job about which something is wrong, and what. For effects ``job`` is the effect's key."""

    job: str
    why: str


class PromisesBroken(AssertionError):
    """The checker found something. Its text is the report, behind the story that led to it if there is one."""

    def __init__(self, report: Report, story: str = "") -> None:
        super().__init__(f"{story} →\n{report}" if story else str(report))
        self.report = report
        self.story = story


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the checker counted; each list has one finding for each job. ``print(report)`` tells the stories.

    :param recovered: jobs whose enqueue nobody could be sure of and that ran; that is allowed.
    :param allowed: how many duplicates the test allows: runs, effects.
    """

    lost: Sequence[Finding] = ()
    unexpected: Sequence[Finding] = ()
    duplicated: Sequence[Finding] = ()
    effects: Sequence[Finding] = ()
    outcomes: Sequence[Finding] = ()
    stuck: Sequence[Finding] = ()
    early: Sequence[Finding] = ()
    late: Sequence[Finding] = ()
    misordered: Sequence[Finding] = ()
    unfenced: Sequence[Finding] = ()
    overrun: Sequence[Finding] = ()
    silent: Sequence[Finding] = ()
    hang: Sequence[Finding] = ()
    dlq_bad: Sequence[Finding] = ()
    recovered: Sequence[str] = ()
    duplicate_runs: int = 0
    duplicate_effects: int = 0
    allowed: tuple[int, int] = (0, 0)
    stories: Mapping[str, Sequence[Entry]] = {}

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
        """Nothing, if all promises were kept.

        :raises PromisesBroken: with the report as its text.
        """
        if self.broken:
            raise PromisesBroken(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self.broken:
            yield f"all promises kept ({len(self.stories)} jobs, {len(self.recovered)} uncertain ones ran)"
            return
        offenders: list[str] = []
        for name in self.violations:
            findings: Sequence[Finding] = getattr(self, name)
            yield f"{name} = {self.counts[name]}: {COUNTS[name]}"
            for finding in findings:
                yield f"    {finding.job}: {finding.why}"
                offenders.append(finding.job)
        told = [job for job in dict.fromkeys(offenders) if job in self.stories]
        for job in told[:STORIES]:
            yield ""
            yield from self._story(job)
        if len(told) > STORIES:
            yield ""
            yield f"… and {len(told) - STORIES} more stories in report.stories"

    def _story(self, job: str) -> Iterator[str]:
        """One job from its beginning to its end; times in seconds since its first entry."""
        entries = self.stories[job]
        yield f"the story of {job}, in seconds since its beginning:"
        for entry in entries:
            yield f"  {entry.at - entries[0].at:>9.3f}  {entry}"
