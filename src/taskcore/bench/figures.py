"""What a measurement came to, as values; one JSON object a line.

Figure       some values of one kind, one for each round
Skipped      something that was not measured, and why
Contestant   what was measured: version, settings, and where these are recommended
MachineInfo  where it was measured
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "BenchRecord",
    "Better",
    "Contestant",
    "Figure",
    "MachineInfo",
    "Skipped",
    "decode_lines",
    "encode_line",
    "percentile",
]


Better: TypeAlias = Literal["more", "less", ""]


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="figure"):
    """One thing that was measured, once in each round.

    :param who: ``"taskcore"``, ``"raw client"``, or a peer's name.
    :param scenario: the part of the run, such as ``"drain"``; ``name`` says which of its figures.
    :param better: whether more is better, or less; empty for what is only told.
    :param facts: numbers beside it: how many jobs in all, how many of them lost, the timeline …
    :param round: in which round of a run it was measured, from 1; 0: unknown.
    :param at: seconds from the beginning of the run.
    """

    broker: str
    who: str
    scenario: str
    name: str
    unit: str
    values: tuple[float, ...]
    better: Better = "more"
    facts: dict[str, Any] = {}
    round: int = 0
    at: float = 0.0

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    @property
    def lost(self) -> int:
        """Jobs that were accepted and never ended."""
        return int(self.facts.get("lost", 0))


class Skipped(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="skipped"):
    """Something that was not measured."""

    broker: str
    who: str
    scenario: str
    why: str


class Contestant(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="contestant"):
    """A measured library. ``settings`` is prose: what was set, and what the documentation says about it."""

    who: str
    version: str
    settings: str
    source: str = ""


class MachineInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="machine"):
    """Where and when it was measured, and the command that did it."""

    when: str
    command: str
    cpu: str
    cores: int
    memory: int
    system: str
    python: str
    loop: str
    taskcore: str
    commit: str = ""
    versions: dict[str, str] = {}
    load: tuple[float, ...] = ()
    seconds: float = 0.0


BenchRecord: TypeAlias = Figure | Skipped | Contestant | MachineInfo

encode_line = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(BenchRecord).decode


def decode_lines(lines: Iterable[str | bytes]) -> Iterator[BenchRecord]:
    """Decode the records of a file of JSON lines.

    :raises msgspec.ValidationError: a line is no record.
    """
    return (_decode(line) for line in lines if line.strip())


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[min(max(int(rank), 1), len(ordered)) - 1]
