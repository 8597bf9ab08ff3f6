"""Stories: a history sorted by job, with starts, ends and verdicts put together into runs.

Linear in the number of entries, and without any opinion: what is wrong with a story is for ``checker`` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from taskcore.testing.history import Entry

__all__ = ["Run", "Stories", "Story", "read"]


class Run(msgspec.Struct, eq=False):
    """One start of the function and what became of it.

    :param end: None: it never ended; its process was killed, or it is still running.
    :param verdict: what the broker was told about it (``settled`` or ``lost``); None: nothing.
    :param over: its worker was handed the job anew, so that what it tells from now on is not about this run.
    :param verdicts: how many verdicts about the job had been carried out before it began.
    :param behind: what had ended the job before it began: ``cancelled``, ``ack``, ``bury``; empty: nothing had.
    """

    start: Entry
    end: Entry | None = None
    verdict: Entry | None = None
    over: bool = False
    behind: str = ""
    verdicts: int = 0

    @property
    def outcome(self) -> str | None:
        """``returned``, ``raised``, ``interrupted``; None: it never ended."""
        return None if self.end is None else str(self.end.facts["outcome"])

    @property
    def settled(self) -> str | None:
        """The verdict that was carried out: ``ack``, ``reschedule``, ``release``, ``bury``; None: none was."""
        told = self.verdict
        return str(told.facts["verdict"]) if told is not None and told.kind == "settled" else None

    @property
    def snoozed(self) -> bool:
        """The function said that it is too early; that uses no attempt and leaves no error."""
        return self.error.startswith("Snooze:")

    @property
    def error(self) -> str:
        """What it raised, as text; empty if it did not."""
        return "" if self.end is None else str(self.end.facts.get("error", ""))


class Story(msgspec.Struct, eq=False):
    """Everything that a history tells about one job, each list in the order of times.

    :param handed: for each verdict in ``settled``, how often the job had been handed out when it was recorded.
    """

    job: str
    entries: list[Entry] = []
    invokes: list[Entry] = []
    answers: list[Entry] = []
    runs: list[Run] = []
    settled: list[Entry] = []
    handed: list[int] = []
    events: dict[str, list[Entry]] = {}
    cancelled: Entry | None = None
    replayed: Entry | None = None

    @property
    def confirmed(self) -> bool:
        """At least one enqueue was answered with OK, or with "it is there": the job has to be somewhere."""
        return any(entry.kind in ("ok", "duplicate") for entry in self.answers)

    @property
    def copies(self) -> int:
        """How many enqueues may have stored it; a broker that notices its id keeps one of them."""
        return len(self.invokes) - sum(entry.kind == "refused" for entry in self.answers)

    @property
    def other_copies(self) -> int:
        """How many more there may be where nobody keeps it to one.

        Each enqueue may have left one, and each verdict that was not carried out for sure.
        """
        return max(self.copies - 1, 0) + sum(run.settled is None for run in self.runs)

    def held_by(self, names: set[str]) -> bool:
        """Whether one of these was handed it."""
        return any(entry.who in names for entry in self.events.get("received", ()))

    def unanswered(self, names: set[str]) -> bool:
        """Whether one of these called for it and never got an answer."""
        return any(
            sum(entry.who == who for entry in self.invokes) > sum(entry.who == who for entry in self.answers)
            for who in names
        )

    @property
    def refused(self) -> bool:
        """Every enqueue was refused, so the job is surely nowhere; an answer that is missing proves nothing."""
        return len(self.answers) >= len(self.invokes) > 0 and all(entry.kind == "refused" for entry in self.answers)

    @property
    def returned_at(self) -> float | None:
        """When a run returned for the first time; None: none did."""
        return min((run.end.at for run in self.runs if run.end is not None and run.outcome == "returned"), default=None)

    def told(self, *names: str, who: str | None = None) -> bool:
        """Whether an event of one of these names was told about the job, by this worker if one is named."""
        return any(who is None or entry.who == who for name in names for entry in self.events.get(name, ()))


class Stories(msgspec.Struct, eq=False):
    """All stories of a history, and what does not belong to a single job.

    :param effects: by key, every time that it was done.
    :param died: who was killed.
    :param listening: whose events are recorded.
    :param emptied: queue → when somebody purged or deleted it last.
    :param replays: job → the jobs as which somebody wanted to send it again.
    """

    by_job: dict[str, Story] = {}
    effects: dict[str, list[Entry]] = {}
    died: set[str] = set()
    listening: set[str] = set()
    emptied: dict[str, float] = {}
    replays: dict[str, list[str]] = {}


def read(entries: Iterable[Entry]) -> Stories:
    """Sort a history by job. The entries have to be in the order of their times."""
    reader = _Reader()
    for entry in entries:
        reader.read(entry)
    return reader.stories


class _Reader:
    """Puts one entry after the other where it belongs."""

    def __init__(self) -> None:
        self.stories = Stories()
        self._open: dict[tuple[str, str, Any], Run] = {}

    def read(self, entry: Entry) -> None:
        """Take one entry in."""
        stories, kind = self.stories, entry.kind
        if kind == "died":
            stories.died.add(entry.who)
        if kind == "effect":
            stories.effects.setdefault(str(entry.facts["key"]), []).append(entry)
        if not entry.job:
            _read_general(stories, entry)
            return
        story = stories.by_job.get(entry.job)
        if story is None:
            story = stories.by_job[entry.job] = Story(entry.job)
        story.entries.append(entry)
        if kind in ("start", "end"):
            self._read_run(story, entry)
        elif kind in ("settled", "lost"):
            _read_verdict(story, entry)
        elif kind == "event":
            _read_event(story, entry)
        else:
            _read_enqueue(story, entry)
            if "replays" in entry.facts:
                stories.replays.setdefault(str(entry.facts["replays"]), []).append(entry.job)

    def _read_run(self, story: Story, entry: Entry) -> None:
        key = (entry.job, entry.who, entry.facts.get("run"))
        if entry.kind == "start":
            run = self._open[key] = Run(entry, behind=_ended(story), verdicts=len(story.settled))
            story.runs.append(run)
        elif key in self._open:
            self._open.pop(key).end = entry


def _read_enqueue(story: Story, entry: Entry) -> None:
    """A call, its answer, or that it was taken back."""
    match entry.kind:
        case "invoke":
            story.invokes.append(entry)
        case "ok" | "duplicate" | "refused" | "uncertain":
            story.answers.append(entry)
        case "cancelled":
            story.cancelled = story.cancelled or entry
        case "replayed":
            story.replayed = story.replayed or entry
        case _:
            pass


def _ended(story: Story) -> str:
    """What has surely ended the job by now."""
    if story.cancelled is not None:
        return "cancelled"
    final = (str(entry.facts["verdict"]) for entry in story.settled if entry.facts["verdict"] in ("ack", "bury"))
    return next(final, "")


def _read_verdict(story: Story, entry: Entry) -> None:
    """A verdict belongs to the latest run of the same worker that can still have one."""
    if entry.kind == "settled":
        story.settled.append(entry)
        story.handed.append(len(story.events.get("received", ())))
    for run in reversed(_runs_of(story, entry.who)):
        if run.verdict is None and not run.over:
            run.verdict = entry
            return


def _read_event(story: Story, entry: Entry) -> None:
    """What else was told about a job; being handed it anew, a worker is done with its earlier runs."""
    name = str(entry.facts.get("name"))
    story.events.setdefault(name, []).append(entry)
    if name == "received":
        for run in _runs_of(story, entry.who):
            run.over = True


def _read_general(stories: Stories, entry: Entry) -> None:
    """What is told about no job in particular."""
    name = entry.facts.get("name")
    if name == "listening":
        stories.listening.add(entry.who)
    elif name in ("purged", "deleted"):
        stories.emptied[str(entry.facts["queue"])] = entry.at


def _runs_of(story: Story, who: str) -> list[Run]:
    """The runs of this worker; of all workers if the runs were recorded under other names than the settling."""
    return [run for run in story.runs if run.start.who == who] or story.runs
