"""Figures as a table of text: a line for each figure, a column for each broker."""

from __future__ import annotations

from collections.abc import Sequence

from taskcore.bench.figures import BenchRecord, Figure, MachineInfo, Skipped
from taskcore.bench.running import show

__all__ = ["table_of"]


def table_of(records: Sequence[BenchRecord]) -> str:
    """Write the figures side by side, then what was lost, then what was not measured and why."""
    figures = [record for record in records if isinstance(record, Figure)]
    brokers = list(dict.fromkeys(figure.broker for figure in figures))
    cells = {(figure.scenario, figure.name, figure.unit, figure.broker): _cell(figure) for figure in figures}
    rows = [["", "", *brokers]]
    for scenario, name, unit in dict.fromkeys((figure.scenario, figure.name, figure.unit) for figure in figures):
        label = f"{scenario}: {name}"
        rows.append([label, unit, *(cells.get((scenario, name, unit, broker), "–") for broker in brokers)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines += ["", *_machine(records), *_lost(figures)]
    skipped = [record for record in records if isinstance(record, Skipped)]
    if skipped:
        lines += ["not measured:", *(f"  {one.broker}, {one.scenario}: {one.why}" for one in skipped)]
    return "\n".join(lines).rstrip()


def _cell(figure: Figure) -> str:
    """Write the median, and the spread if there were several rounds."""
    low, high = min(figure.values), max(figure.values)
    spread = (high - low) / figure.median / 2 * 100 if len(figure.values) > 1 and figure.median else 0.0
    return show(figure.median) + (f" ±{spread:.0f}%" if len(figure.values) > 1 else "")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}"
    return "  ".join([first, *(f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True))]).rstrip()


def _machine(records: Sequence[BenchRecord]) -> list[str]:
    machines = [record for record in records if isinstance(record, MachineInfo)]
    return [
        f"{one.cpu}, {one.cores} cores, {one.python}, {one.loop}, load {one.load[0] if one.load else 0:g} at the start"
        for one in machines[-1:]
    ]


def _lost(figures: Sequence[Figure]) -> list[str]:
    counted = [figure for figure in figures if "lost" in figure.facts]
    if not counted:
        return []
    lost = [figure for figure in counted if figure.lost]
    jobs = sum(int(figure.facts.get("jobs", figure.facts.get("sent", 0))) for figure in counted)
    if not lost:
        return [f"lost: none of {jobs:,} jobs, counted from their ids"]
    return [f"LOST: {figure.lost} jobs on {figure.broker}, {figure.scenario}: {figure.name}" for figure in lost]
