"""The evidence: the ledgers sorted by job, the faults with their times, and what was found at the end. No opinion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from benchmarks.soak.kinds import LEASE, Kind, kind_of
from benchmarks.soak.ledger import LedgerLine
from taskcore.conformance.checking import Snapshot

__all__ = ["STALL", "Block", "Evidence", "JobRecord", "Remains", "Run", "Trouble", "gather", "is_of"]

STALL = "a stall of the machine"  #: no fault of ours: it is busy with other programs
MARGIN = 3.0  #: seconds by which a fault works on: reconnecting, and a busy machine


@dataclass
class Run:
    """One start of a function, and its end if it came to that."""

    start: LedgerLine
    end: LedgerLine | None = None

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
    lines: list[LedgerLine] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What kind of job it is."""
        return kind_of(self.id)

    def all(self, *what: str) -> list[LedgerLine]:
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

    @property
    def ends_it_at_once(self) -> bool:
        """Whether the process could say no last word."""
        return self.what.startswith(("kill", "death"))

    def touches(self, whom: Iterable[str], since: float, until: float) -> bool:
        """Tell whether one of these processes felt it in this time."""
        in_time = self.began - MARGIN <= until and since <= self.ended
        return in_time and (not self.who or any(is_of(who, self.who) for who in whom))


def is_of(process: str, life: str) -> bool:
    """Tell whether a process is the one that is named, or belongs to the life of a member that is named."""
    return process == life or process.startswith(f"{life}/")


class Block(NamedTuple):
    """A time in which a process's event loop was blocked by a job."""

    who: str
    began: float
    ended: float


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
    lines: Sequence[LedgerLine]
    remains: Remains
    one_copy: bool = True
    delta: float = 0.1
    lease: float = LEASE

    def all(self, *what: str) -> list[LedgerLine]:
        """Return the lines of these names, in the order of times."""
        return [line for line in self.lines if line.what in what]

    @cached_property
    def blocks(self) -> list[Block]:
        """The times in which event loops were blocked."""
        runs = [run for record in self.jobs.values() for run in record.runs if "blocks" in run.start.facts]
        ends = (run.start.at + float(run.start.facts["blocks"]) if run.end is None else run.end.at for run in runs)
        return [Block(run.start.who, run.start.at, end) for run, end in zip(runs, ends, strict=True)]

    def blocked_since(self, whom: Iterable[str], at: float) -> float:
        """Return when the last block of one of these processes began that was on or just over at a time; else it."""
        whom = set(whom)
        began = [one.began for one in self.blocks if one.who in whom and one.began <= at <= one.ended + MARGIN]
        return min(began, default=at)

    def excuse(self, whom: Iterable[str], since: float, until: float) -> str | None:
        """Name the trouble that these processes had in this time; None: none."""
        whom = set(whom)
        return next((one.what for one in self.troubles if one.touches(whom, since, until)), None)


def gather(lines: Sequence[LedgerLine], remains: Remains, **promises: Any) -> Evidence:
    """Sort the lines of all ledgers.

    :param promises: what broker and store promise, and the lease, see :class:`Evidence`.
    """
    jobs: dict[str, JobRecord] = {}
    running: dict[Any, Run] = {}
    for line in lines:
        if not line.job:
            continue
        record = jobs.setdefault(line.job, JobRecord(line.job))
        if not record.lines and "instant" in line.facts:  # a schedule has sent it, and writes no ledger
            record.lines += [line._replace(what="sending", facts={}), line._replace(what="confirmed", facts={})]
        record.lines.append(line)
        if line.what == "started":
            run = running[line.job, line.facts["run"]] = Run(line)
            record.runs.append(run)
        elif line.what == "finished" and (line.job, line.facts["run"]) in running:
            running.pop((line.job, line.facts["run"])).end = line
        elif line.what == "joined":
            first = str(line.facts["first"])
            owner = LedgerLine(line.at, line.who, "owner", first, {"asked": line.job})
            jobs.setdefault(first, JobRecord(first)).lines.append(owner)
    lease = float(promises.get("lease", LEASE))
    return Evidence(jobs, list(_troubles(lines, lease)), lines, remains, **promises)


def _troubles(lines: Sequence[LedgerLine], lease: float) -> Iterator[Trouble]:
    """Yield each fault from its beginning to its end, and a lease more: until then a job may be handed out again."""
    end = lines[-1].at if lines else 0.0
    open_faults: dict[tuple[str, str], LedgerLine] = {}
    for line in lines:
        if line.what == "fault":
            open_faults[str(line.facts["kind"]), str(line.facts["target"])] = line
        elif line.what == "healed":
            key = str(line.facts["kind"]), str(line.facts["target"])
            began = open_faults.pop(key, line)
            yield _trouble(began, line.at + lease)
        elif line.what == "died" and not line.facts.get("asked"):
            who = str(line.facts["life"])
            yield Trouble(f"death of {who}", who, line.at - 2.0, line.at + lease + MARGIN)
        elif line.what == "started" and "poison" in line.facts:
            yield Trouble(f"death of {line.who}", line.who, line.at, line.at + lease + MARGIN)
        elif line.what == "stall":
            yield Trouble(STALL, "", float(line.facts["began"]), line.at + lease + MARGIN)
    for line in open_faults.values():
        yield _trouble(line, end + lease)


def _trouble(began: LedgerLine, ended: float) -> Trouble:
    """Make the trouble of a fault; one of the senders' connections is none of a worker's."""
    kind, target = str(began.facts["kind"]), str(began.facts["target"])
    is_general = "." not in target and not target.startswith("senders")
    return Trouble(f"{kind} of {target}", "" if is_general else target, began.at, ended + MARGIN)
