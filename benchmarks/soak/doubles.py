"""Doubles: starts that no end before them called for, and what caused each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.soak.evidence import Evidence, JobRecord, Run

__all__ = ["Double", "cause_of", "doubles"]


class Double(NamedTuple):
    """A start that no end called for, and its cause; None: none was found."""

    job: str
    cause: str | None


def doubles(evidence: Evidence) -> Iterator[Double]:
    """Yield each start beyond those that the ends before it called for, with its cause.

    A retry is another copy, with a number of its own; so a copy starts once, and again only if it was given back.
    Where a job may have several copies at a time, each goes on by itself: the first double explains the later ones.
    """
    for record in evidence.jobs.values():
        last: dict[int, Run] = {}
        first = None
        for run in record.runs:
            earlier = last.get(run.copies)
            last[run.copies] = run
            if earlier is not None and not earlier.given_back_before(run):
                cause = cause_of(evidence, record, earlier, run.start.at) or first
                cause = cause or _what_left_a_copy(evidence, record, earlier, run)
                first = None if evidence.one_copy else cause
                yield Double(record.id, cause)


def cause_of(evidence: Evidence, record: JobRecord, earlier: Run, until: float) -> str | None:
    """Find why a job was handed out again after this start of it. That a lease ran out is none: workers keep them."""
    since = earlier.start.at if earlier.end is None else earlier.end.at
    whom = {earlier.start.who, *(run.start.who for run in record.runs if run.start.at >= earlier.start.at)}
    since = evidence.blocked_since(whom, min(since, until))  # what came meanwhile is felt when the loop turns again
    fault = evidence.excuse(whom, since, until)
    if fault is not None:
        return fault
    is_twice = not evidence.one_copy and len(record.all("sending", "owner")) > 1
    return "several enqueues, on a broker that does not deduplicate" if is_twice else None


def _what_left_a_copy(evidence: Evidence, record: JobRecord, earlier: Run, later: Run) -> str | None:
    """Find what left a second copy of a job that was released before it first started.

    A release stores a copy and ends the original; a fault between the two leaves both. Each counts its deliveries, so
    one that is delivered again has a higher fence: a fence that does not grow is that of another copy.
    """
    if evidence.one_copy or later.start.facts["fence"] > earlier.start.facts["fence"]:
        return None
    everyone = {trouble.who for trouble in evidence.troubles}
    return evidence.excuse(everyone, record.lines[0].at, earlier.start.at)
