"""The report of a run: what was sent, what was done to it, and the verdict with its evidence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.soak.evidence import Evidence
from benchmarks.soak.judge import RULES, Finding, Judgement
from benchmarks.soak.kinds import KINDS, kind_of
from benchmarks.soak.promises import sizes_of

__all__ = ["Report", "as_json", "as_text"]

SHOWN = 8  #: findings whose ledger lines are shown
NAMED = 40  #: findings that are named; the JSON has all of them
VETERAN = "worker-veteran.1/"  #: the worker whose growth the report shows
COLUMNS = ("sent", "confirmed", "starts", "returned", "doubles", "succeeded", "dead", "cancelled", "expired")


@dataclass(frozen=True)
class Report:
    """One run.

    :param title: on which broker and store, of which versions.
    :param folder: where the ledgers and logs are.
    """

    title: str
    seed: int
    seconds: float
    faults: Mapping[str, int]
    evidence: Evidence
    judgement: Judgement
    folder: str

    @property
    def broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.judgement.findings)

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """Counts for each kind."""
        counts = {name: dict.fromkeys(COLUMNS, 0) for name in KINDS}
        outcomes = self.evidence.remains.snapshot.outcomes
        for record in self.evidence.jobs.values():
            row = counts[record.kind.name]
            row["sent"] += bool(record.all("sending"))
            row["confirmed"] += record.confirmed
            row["starts"] += len(record.runs)
            row["returned"] += len(record.returned)
            if (outcome := outcomes.get(record.id)) is not None:
                row[outcome] += 1
        for double in self.judgement.doubles:
            counts[kind_of(double.job).name]["doubles"] += 1
        return counts

    @property
    def causes(self) -> dict[str, int]:
        """The doubles by their causes; one fault is named by what it did, not to which life."""
        return dict(Counter(_plain(double.cause) for double in self.judgement.doubles).most_common())

    @property
    def deeds(self) -> dict[str, int]:
        """What the supervisors did by themselves, and how often."""
        return {str(line.facts["deed"]): int(line.facts["times"]) for line in self.evidence.all("deed")}

    @property
    def stalls(self) -> list[float]:
        """For how many seconds the machine did not keep up, each time."""
        return [round(float(line.facts["seconds"]), 1) for line in self.evidence.all("stall")]

    @property
    def sizes(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What the worker that is never ended and the broker had first and last."""
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for (who, what), samples in sizes_of(self.evidence).items():
            if who == "broker" or who.startswith(VETERAN):
                found.setdefault(who.partition(".")[0], {})[what] = samples[0][1], samples[-1][1]
        return found

    @property
    def verdict(self) -> dict[str, int]:
        """How many findings each rule has."""
        counts = Counter(finding.rule for finding in self.judgement.findings)
        return {name: counts[name] for name in RULES}


def _plain(cause: str | None) -> str:
    if cause is None:
        return "unexplained"
    what, _, target = cause.partition(" of ")
    return f"{what} of {target.partition('.')[0].rstrip('-0123456789')}" if target else what


def as_text(report: Report) -> str:
    """Write the report for people."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.title}, {report.seconds:.0f} s, seed {report.seed}"
    yield ""
    kinds = report.kinds
    yield f"{'kind':<10}" + "".join(f"{column:>10}" for column in COLUMNS)
    for name, row in kinds.items():
        yield f"{name:<10}" + "".join(f"{row[column]:>10}" for column in COLUMNS)
    yield f"{'all':<10}" + "".join(f"{sum(row[column] for row in kinds.values()):>10}" for column in COLUMNS)
    yield ""
    yield f"faults: {', '.join(f'{number} × {name}' for name, number in sorted(report.faults.items())) or 'none'}"
    yield f"doubles: {', '.join(f'{number} × {cause}' for cause, number in report.causes.items()) or 'none'}"
    yield f"stalls of the machine: {len(report.stalls)}, the longest {max(report.stalls, default=0.0):.1f} s"
    yield f"supervisors: {', '.join(f'{times} × {deed}' for deed, times in report.deeds.items())}"
    for who, sizes in report.sizes.items():
        yield f"{who}: {', '.join(_show_size(what, *ends) for what, ends in sizes.items())}"
    yield f"quiet {report.evidence.remains.waited:.1f} s after the last fault"
    yield ""
    yield "; ".join(f"{name} {number}" for name, number in report.verdict.items())
    if not report.broken:
        yield "clean"
        return
    yield f"BROKEN; ledgers and logs are in {report.folder}"
    for number, finding in enumerate(report.judgement.findings[:NAMED]):
        yield ""
        yield f"{finding.rule}: {finding.job or '-'}: {finding.why}"
        if number < SHOWN:
            yield from _evidence(report.evidence, finding)
    if (more := len(report.judgement.findings) - NAMED) > 0:
        yield f"… and {more} more; --json has all of them"


def _show_size(what: str, first: float, last: float) -> str:
    return f"{what} {_in_units(what, first)} → {_in_units(what, last)}"


def _in_units(what: str, size: float) -> str:
    return f"{size / 1e6:.1f} MB" if what == "memory" else f"{size:.0f}"


def _evidence(evidence: Evidence, finding: Finding) -> Iterator[str]:
    record = evidence.jobs.get(finding.job)
    if record is None or not record.lines:
        return
    began, ended = record.lines[0].at, record.lines[-1].at
    shown = [(line.at, str(line)) for line in record.lines]
    shown += [
        (one.began, f"{'':<14} fault      {one.what}")
        for one in evidence.troubles
        if began - 10 <= one.began <= ended + 10
    ]
    for at, text in sorted(shown):
        yield f"  {at - began:>9.3f}  {text}"


def as_json(report: Report) -> str:
    """Write the report for programs."""
    told: dict[str, Any] = {
        "title": report.title,
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "clean": not report.broken,
        "kinds": report.kinds,
        "faults": dict(report.faults),
        "doubles": report.causes,
        "stalls": report.stalls,
        "supervisors": report.deeds,
        "sizes": report.sizes,
        "quiet_after": round(report.evidence.remains.waited, 1),
        "verdict": report.verdict,
        "folder": report.folder,
        "findings": [
            finding._asdict() | {"lines": list(_evidence(report.evidence, finding))}
            for finding in report.judgement.findings
        ],
    }
    return json.dumps(told, indent=2)
