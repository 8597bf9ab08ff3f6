"""JobHistories: a history sorted by job, with starts, ends and verdicts put together into runs.

Linear in the number of entries, and without any opinion: what is wrong with a job's history is for ``checker`` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from taskcore.testing.history import HistoryEntry

__all__ = ["JobHistories", "JobHistory", "ObservedRun", "read"]


class ObservedRun(msgspec.Struct, eq=False):
    """One start of the function and what became of it.

    :param end: None: it never ended; its process was killed, or it is still running.
    :param verdict: what the broker was told about it (``settled`` or ``lost``); None: nothing.
    :param over: its worker was handed the job anew, so that what it tells from now on is not about this run.
    :param verdicts: how many verdicts about the job had been carried out before it began.
    :param behind: what had ended the job before it began: ``cancelled``, ``ack``, ``bury``; empty: nothing had.
    """

    start: HistoryEntry
    end: HistoryEntry | None = None
    verdict: HistoryEntry | None = None
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


class JobHistory(msgspec.Struct, eq=False):
    """Everything that a history tells about one job, each list in the order of times.

    :param deliveries_before: for each verdict in ``settled``, the deliveries that were recorded before it.
    """

    job: str
    entries: list[HistoryEntry] = []
    invokes: list[HistoryEntry] = []
    answers: list[HistoryEntry] = []
    runs: list[ObservedRun] = []
    settled: list[HistoryEntry] = []
    deliveries_before: list[int] = []
    events: dict[str, list[HistoryEntry]] = {}
    cancelled: HistoryEntry | None = None
    replayed: HistoryEntry | None = None

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
        """Count the further copies that a broker without deduplication may have.

        Each enqueue may have left one, and each verdict that was not carried out for sure.
        """
        return max(self.copies - 1, 0) + sum(run.settled is None for run in self.runs)

    def held_by(self, names: set[str]) -> bool:
        """Tell whether one of these workers was handed the job."""
        return any(entry.who in names for entry in self.events.get("received", ()))

    def unanswered(self, names: set[str]) -> bool:
        """Tell whether one of these actors called for the job and never got an answer."""
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

    def has_event(self, *names: str, who: str | None = None) -> bool:
        """Tell whether an event of one of these names was told about the job, by this worker if one is named."""
        return any(who is None or entry.who == who for name in names for entry in self.events.get(name, ()))


class JobHistories(msgspec.Struct, eq=False):
    """A history sorted by job, and what does not belong to a single job.

    :param effects: by key, every time that it was done.
    :param died: names of actors that were killed.
    :param listening: whose events are recorded.
    :param emptied: queue → when it was last purged or deleted.
    :param replays: job → the jobs that replays of it made.
    """

    by_job: dict[str, JobHistory] = {}
    effects: dict[str, list[HistoryEntry]] = {}
    died: set[str] = set()
    listening: set[str] = set()
    emptied: dict[str, float] = {}
    replays: dict[str, list[str]] = {}


def read(entries: Iterable[HistoryEntry]) -> JobHistories:
    """Sort a history by job. The entries have to be in the order of their times."""
    reader = _Reader()
    for entry in entries:
        reader.read(entry)
    return reader.histories


class _Reader:
    """Puts one entry after the other where it belongs."""

    def __init__(self) -> None:
        self.histories = JobHistories()
        self._open: dict[tuple[str, str, Any], ObservedRun] = {}

    def read(self, entry: HistoryEntry) -> None:
        """Take one entry in."""
        histories, kind = self.histories, entry.kind
        if kind == "died":
            histories.died.add(entry.who)
        if kind == "effect":
            histories.effects.setdefault(str(entry.facts["key"]), []).append(entry)
        if not entry.job:
            _read_general(histories, entry)
            return
        job_history = histories.by_job.get(entry.job)
        if job_history is None:
            job_history = histories.by_job[entry.job] = JobHistory(entry.job)
        job_history.entries.append(entry)
        if kind in ("start", "end"):
            self._read_run(job_history, entry)
        elif kind in ("settled", "lost"):
            _read_verdict(job_history, entry)
        elif kind == "event":
            _read_event(job_history, entry)
        else:
            _read_enqueue(job_history, entry)
            if "replays" in entry.facts:
                histories.replays.setdefault(str(entry.facts["replays"]), []).append(entry.job)

    def _read_run(self, job_history: JobHistory, entry: HistoryEntry) -> None:
        key = (entry.job, entry.who, entry.facts.get("run"))
        if entry.kind == "start":
            run = self._open[key] = ObservedRun(entry, behind=_ended(job_history), verdicts=len(job_history.settled))
            job_history.runs.append(run)
        elif key in self._open:
            self._open.pop(key).end = entry


def _read_enqueue(job_history: JobHistory, entry: HistoryEntry) -> None:
    """Read a call, its answer, or that it was taken back."""
    match entry.kind:
        case "invoke":
            job_history.invokes.append(entry)
        case "ok" | "duplicate" | "refused" | "uncertain":
            job_history.answers.append(entry)
        case "cancelled":
            job_history.cancelled = job_history.cancelled or entry
        case "replayed":
            job_history.replayed = job_history.replayed or entry
        case _:
            pass


def _ended(job_history: JobHistory) -> str:
    """Return what has surely ended the job by now."""
    if job_history.cancelled is not None:
        return "cancelled"
    last = (str(entry.facts["verdict"]) for entry in job_history.settled if entry.facts["verdict"] in ("ack", "bury"))
    return next(last, "")


def _read_verdict(job_history: JobHistory, entry: HistoryEntry) -> None:
    """Give a verdict to the latest run of the same worker that can still have one."""
    if entry.kind == "settled":
        job_history.settled.append(entry)
        job_history.deliveries_before.append(len(job_history.events.get("received", ())))
    for run in reversed(_runs_of(job_history, entry.who)):
        if run.verdict is None and not run.over:
            run.verdict = entry
            return


def _read_event(job_history: JobHistory, entry: HistoryEntry) -> None:
    """Read another event of a job; a worker that is handed the job anew is done with its earlier runs."""
    name = str(entry.facts.get("name"))
    job_history.events.setdefault(name, []).append(entry)
    if name == "received":
        for run in _runs_of(job_history, entry.who):
            run.over = True


def _read_general(histories: JobHistories, entry: HistoryEntry) -> None:
    """Read an event that belongs to no job."""
    name = entry.facts.get("name")
    if name == "listening":
        histories.listening.add(entry.who)
    elif name in ("purged", "deleted"):
        histories.emptied[str(entry.facts["queue"])] = entry.at


def _runs_of(job_history: JobHistory, who: str) -> list[ObservedRun]:
    """Return the runs of this worker; of all workers if the runs were recorded under other names than the settling."""
    return [run for run in job_history.runs if run.start.who == who] or job_history.runs
