"""The evidence: the ledgers sorted by job, the faults with their times, and what was found at the end. No opinion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.kinds import LEASE, Kind, kind_of
from benchmarks.soak.ledger import Line
from taskcore.conformance.checking import Snapshot

__all__ = ["Evidence", "JobRecord", "Remains", "Run", "Trouble", "gather"]

MARGIN = 3.0  #: seconds by which a fault works on: reconnecting, and a busy machine


@dataclass
class Run:
    """One start of a function, and its end if it came to that."""

    start: Line
    end: Line | None = None

    @property
    def outcome(self) -> str | None:
        """``returned``, ``raised``, ``interrupted``; None: it never ended."""
        return None if self.end is None else str(self.end.facts.get("outcome"))

    @property
    def copies(self) -> int:
        """The number of the copy: how often the job had been rescheduled before."""
        return int(self.start.facts["copies"])

    def given_back_before(self, other: Run) -> bool:
        """Tell whether it was interrupted, so that the same copy has to start again."""
        return self.outcome == "interrupted" and self.end is not None and self.end.at <= other.start.at


@dataclass
class JobRecord:
    """Everything that was written down about one job, in the order of times."""

    id: str
    lines: list[Line] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What kind of job it is."""
        return kind_of(self.id)

    def all(self, *what: str) -> list[Line]:
        """Return the lines of these names."""
        return [line for line in self.lines if line.what in what]

    @property
    def confirmed(self) -> bool:
        """Whether a caller was told that the broker has it."""
        return bool(self.all("confirmed", "owner"))

    @property
    def half_cancelled(self) -> bool:
        """Whether its last cancellation had no answer: it may be taken back, and the record of it missing."""
        asked = self.all("cancelling", "cancelled", "too late")
        return bool(asked) and asked[-1].what == "cancelling"

    @property
    def returned(self) -> list[Run]:
        """The runs that returned."""
        return [run for run in self.runs if run.outcome == "returned"]


@dataclass(frozen=True)
class Trouble:
    """A fault, a death by poison or a lost connection: when it began, and when its consequences were over.

    :param who: the life of the process that it hit; empty: all of them.
    """

    what: str
    who: str
    began: float
    ended: float

    @property
    def ends_it(self) -> bool:
        """Whether the process did not survive it."""
        return not self.what.startswith("pause")

    def touches(self, whom: Iterable[str], since: float, until: float) -> bool:
        """Tell whether one of these processes felt it in this time."""
        return (not self.who or self.who in whom) and self.began - MARGIN <= until and since <= self.ended


@dataclass(frozen=True)
class Remains:
    """What was found when everything was quiet.

    :param snapshot: of the queue: jobs, dead letters, outcomes.
    :param waste: what should be gone from broker or store, in their own words; with the job it is about, or "".
    :param waited: seconds until the queue was empty.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    waste: Sequence[tuple[str, str]] = ()
    waited: float = 0.0


@dataclass(eq=False)
class Evidence:
    """What the judge knows.

    :param one_copy: the broker keeps one copy of a job, whatever happens.
    :param delta: seconds by which a start may be early, as the broker states.
    """

    jobs: Mapping[str, JobRecord]
    troubles: Sequence[Trouble]
    offences: Sequence[Line]
    remains: Remains
    one_copy: bool = True
    delta: float = 0.1

    def excuse(self, whom: Iterable[str], since: float, until: float) -> str | None:
        """Name the trouble that these processes had in this time; None: none."""
        whom = set(whom)
        return next((one.what for one in self.troubles if one.touches(whom, since, until)), None)


def gather(lines: Sequence[Line], remains: Remains, **promises: Any) -> Evidence:
    """Sort the lines of all ledgers.

    :param promises: what broker and store promise, see :class:`Evidence`.
    """
    jobs: dict[str, JobRecord] = {}
    running: dict[Any, Run] = {}
    for line in lines:
        if not line.job:
            continue
        record = jobs.setdefault(line.job, JobRecord(line.job))
        record.lines.append(line)
        if line.what == "started":
            run = running[line.job, line.facts["run"]] = Run(line)
            record.runs.append(run)
        elif line.what == "finished" and (line.job, line.facts["run"]) in running:
            running.pop((line.job, line.facts["run"])).end = line
        elif line.what == "joined":
            first = str(line.facts["first"])
            owner = Line(line.at, line.who, "owner", first, {"asked": line.job})
            jobs.setdefault(first, JobRecord(first)).lines.append(owner)
    offences = [line for line in lines if line.what == "offence"]
    return Evidence(jobs, list(_troubles(lines)), offences, remains, **promises)


def _troubles(lines: Sequence[Line]) -> Iterator[Trouble]:
    """Yield each fault from its beginning to its end, and a lease more: until then a job may be handed out again."""
    end = lines[-1].at if lines else 0.0
    open_faults: dict[tuple[str, str], Line] = {}
    for line in lines:
        if line.what == "fault":
            open_faults[str(line.facts["kind"]), str(line.facts["target"])] = line
        elif line.what == "healed":
            key = str(line.facts["kind"]), str(line.facts["target"])
            began = open_faults.pop(key, line)
            yield _trouble(began, line.at)
        elif line.what == "died" and not line.facts.get("asked"):
            who = str(line.facts["life"])
            yield Trouble(f"death of {who}", who, line.at - 2.0, line.at + LEASE + MARGIN)
    for line in open_faults.values():
        yield _trouble(line, end)


def _trouble(began: Line, ended: float) -> Trouble:
    """Make the trouble of a fault; one of the senders' connections is none of a worker's."""
    kind, target = str(began.facts["kind"]), str(began.facts["target"])
    is_general = "." not in target and not target.startswith("senders")
    return Trouble(f"{kind} of {target}", "" if is_general else target, began.at, ended + LEASE + MARGIN)
