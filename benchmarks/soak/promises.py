"""The promises of a worker for production: lifespans, dependencies, hooks, schedules, the roster, new code, sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TypeAlias

from benchmarks.soak.evidence import STALL, Evidence, is_of
from benchmarks.soak.ledger import LedgerLine

__all__ = ["LISTED_FOR", "PROMISES", "sizes_of"]

Rule: TypeAlias = Callable[[Evidence], Iterator[tuple[str, str]]]

LISTED_FOR = 4.0  #: seconds for which a worker that died may be listed: three heartbeats, and one more
BUSY = 4.0  #: … and that a busy machine may need beside
LONG_ENOUGH = 150.0  #: seconds after which sizes are compared
LAST_RESORT = 8.0  #: seconds after its grace in which a stopping worker ends, whatever its jobs do
WARM = 30.0  #: seconds in which a process may grow as it likes

#: How much larger the least of the last third may be than the median of the first one: a part of it, and a fixed size.
MAY_GROW: Mapping[str, tuple[float, float]] = {
    "memory": (0.15, 12e6), "descriptors": (0.1, 8), "tasks": (0.1, 20),
    "connections": (0.5, 12), "consumers": (0.5, 12),
}  # fmt: skip


def _lifespan(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield worker processes that entered their lifespan twice, left it twice, or ended in order without leaving."""
    entered, left = _count(evidence.all("entered")), _count(evidence.all("left"))
    for who, number in entered.items():
        if number > 1:
            yield "", f"{who} entered its lifespan {number} times"
        if left.get(who, 0) > 1:
            yield "", f"{who} left its lifespan {left[who]} times"
        if who not in left and not _fell(evidence, who):
            yield "", f"{who} did not leave its lifespan, and nothing killed it"
    for who in left:
        if who not in entered:
            yield "", f"{who} left a lifespan that it had not entered"


def _count(lines: Sequence[LedgerLine]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        counts[line.who] += 1
    return counts


def _fell(evidence: Evidence, who: str) -> bool:
    """Tell whether it was killed, or ended itself as the last resort.

    That happens on a machine that did not keep up, or when a job blocked its event loop for longer than it waits.
    """
    last = max(line.at for line in evidence.lines if line.who == who)
    blocked = (block for block in evidence.blocks if block.who == who and block.ended - block.began > LAST_RESORT)
    return any(block.began <= last <= block.ended for block in blocked) or any(
        (one.what == STALL and one.touches((), last - LAST_RESORT, last + LAST_RESORT))
        or (one.who and one.ends_it_at_once and is_of(who, one.who))
        for one in evidence.troubles
    )


def _dependency(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield dependencies that were not open around their job, that stayed open, or were opened twice."""
    units = {str(line.facts["unit"]): line for line in evidence.all("unit opened")}
    closed = {str(line.facts["unit"]): line for line in evidence.all("unit closed")}
    for unit, opened in units.items():
        if unit not in closed and not _fell(evidence, opened.who):
            yield opened.job, "its dependency was opened and not closed"
    for record in evidence.jobs.values():
        for run in record.runs if record.kind.name == "depends" else ():
            unit = str(run.start.facts.get("unit"))
            if unit not in units:
                yield record.id, "started, and its dependency was not opened"
            elif run.end is not None and unit in closed and closed[unit].at < run.end.at:
                yield record.id, "its dependency was closed before it ended"
    yield from _pools(evidence)


def _pools(evidence: Evidence) -> Iterator[tuple[str, str]]:
    opened, closed = _count(evidence.all("pool opened")), _count(evidence.all("pool closed"))
    left = {line.who: line for line in evidence.all("left")}
    for who, number in opened.items():
        if number > 1:
            yield "", f"{who} opened what all its jobs share {number} times"
        if who in left and closed.get(who, 0) != number:
            yield "", f"{who} left its lifespan, and what all its jobs share was closed {closed.get(who, 0)} times"


def _untold(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield dead letters of which no hook was told although no worker fell, and hooks that told of none."""
    told = {line.job for line in evidence.all("told")}
    letters = {letter.job for letter in evidence.remains.snapshot.letters}
    workers = {line.who for line in evidence.all("entered")}
    for job in letters - told:
        record = evidence.jobs.get(job)
        if record is None:
            continue
        since = record.runs[-1].start.at if record.runs else record.lines[0].at
        if evidence.excuse(workers, since, record.lines[-1].at + evidence.lease + BUSY) is None:
            yield job, "became a dead letter, and its hook was not called"
    for job in told - letters:
        yield job, "its hook was called, and there is no dead letter"


def _tick(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield instants of the schedule with several jobs, and those between the first and the last that have none."""
    jobs: dict[str, set[str]] = defaultdict(set)
    for line in evidence.all("started"):
        if "instant" in line.facts:
            jobs[str(line.facts["instant"])].add(line.job)
    for instant, ids in jobs.items():
        if len(ids) > 1:
            yield min(ids), f"the instant {instant} has {len(ids)} jobs: {', '.join(sorted(ids))}"
    seconds = sorted(int(datetime.fromisoformat(instant).timestamp()) for instant in jobs if instant)
    for before, after in pairwise(seconds):
        if after != before + 1:
            yield "", f"no job came for the {after - before - 1} instants after {before}"
    if "" in jobs:
        yield min(jobs[""]), "a job of the schedule does not know its instant"


def _roster(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield workers that are listed although they died, and those that are missing in a time of rest."""
    first_seen: dict[int, float] = {}
    told: set[int] = set()
    for line in evidence.all("roster"):
        gone = {int(pid) for pid in line.facts["gone"]}
        for pid in list(first_seen):
            if pid not in gone:
                del first_seen[pid]
        for pid in gone - told:
            listed = line.at - first_seen.setdefault(pid, line.at)
            if listed > LISTED_FOR + BUSY:
                told.add(pid)
                yield "", f"process {pid} is listed as a worker {listed:.1f} s after its end"
    for line in evidence.all("roster at rest"):
        if why := str(line.facts["why"]):
            yield "", why


def _stale(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield reloaded workers that run old code at the end."""
    newest = {str(line.facts["life"]): str(line.facts["number"]) for line in evidence.all("code")}
    for member, number in newest.items():
        ran = [line.facts["code"] for line in evidence.all("entered") if line.who.startswith(f"{member}.")]
        if not ran or ran[-1] != number:
            yield "", f"{member} runs code {ran[-1] if ran else 'none'} at the end, {number} was the last"


def _grown(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield what is larger at the end of a long run than at its beginning."""
    for (who, what), samples in sizes_of(evidence).items():
        if samples[-1][0] - samples[0][0] < LONG_ENOUGH:
            continue
        third = max(1, len(samples) // 3)
        first = median(size for _, size in samples[:third])
        last = min(size for _, size in samples[-third:])
        part, fixed = MAY_GROW[what]
        if last > first * (1 + part) + fixed:
            yield "", f"{who} has {last:,.0f} {what} in the last third, at least; {first:,.0f} in the first one"


def sizes_of(evidence: Evidence) -> Mapping[tuple[str, str], list[tuple[float, float]]]:
    """Return what was measured of each process and of the servers, with times.

    Without the first moments of processes, in which they may grow, and without the time in which they are stopped.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    began: dict[str, float] = {}
    end = next((line.at for line in evidence.all("roster at rest")), float("inf"))
    for line in evidence.all("size"):
        if line.at > end:
            break
        who = str(line.facts.get("of", line.who))
        if line.at - began.setdefault(who, line.at) >= (0.0 if who in {"broker", "store"} else WARM):
            for what in MAY_GROW:
                if what in line.facts:
                    found[who, what].append((line.at, float(line.facts[what])))
    return {of: samples for of, samples in found.items() if not of[0].startswith("worker-scaled") or "/" not in of[0]}


PROMISES: Mapping[str, Rule] = {
    "lifespan": _lifespan,
    "dependency": _dependency,
    "hook": _untold,
    "tick": _tick,
    "roster": _roster,
    "stale code": _stale,
    "grown": _grown,
}
