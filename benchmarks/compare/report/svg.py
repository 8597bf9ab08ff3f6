"""Plots as SVG text, drawn by hand: bars, lines, ranges, timelines. Colours are classes; the page's CSS fills them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.compare.report.wording import times
from taskcore.bench import show

__all__ = ["Bar", "Line", "Range", "bars", "lines", "ranges", "timeline"]

WIDTH = 720
LABEL = 132  #: room for names on the left
VALUE = 150  #: room for numbers on the right
ROW = 26


class Bar(NamedTuple):
    """One bar: a name, the values of all rounds, a class: ``us``, ``peer`` or ``raw``; how many times better we are."""

    name: str
    values: Sequence[float]
    kind: str
    note: str = ""
    ratio: float | None = None


class Line(NamedTuple):
    """One line: a name, its points, a class ``c0`` … ``c5``."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str


class Range(NamedTuple):
    """From a low value (p50) to a high one (p99)."""

    name: str
    low: float
    high: float
    kind: str


def bars(rows: Sequence[Bar], unit: str) -> str:
    """Draw horizontal bars from zero, the median as a number, each round as a dot."""
    top = max((max(row.values) for row in rows), default=1.0) or 1.0
    room = WIDTH - LABEL - VALUE
    parts = []
    for index, row in enumerate(rows):
        y, middle = index * ROW + 4, index * ROW + 4 + (ROW - 8) / 2
        median = _median(row.values)
        length = max(median / top * room, 1.5)
        beside = f" · {row.note}" if row.note else ""
        if row.ratio is not None:
            beside = f" · {times(row.ratio)}×{beside}"
        parts.append(
            f'<text class="name {row.kind}" x="{LABEL - 10}" y="{middle}" text-anchor="end">{escape(row.name)}</text>'
            f'<rect class="{row.kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="3"/>'
        )
        if len(row.values) > 1:
            parts += [
                f'<circle class="dot" cx="{LABEL + value / top * room:.1f}" cy="{middle}" r="2"/>'
                for value in row.values
            ]
        at = LABEL + max(value / top for value in row.values) * room + 8
        parts.append(
            f'<text class="value" x="{at:.1f}" y="{middle}">{show(median)}'
            f'<tspan class="soft">{escape(beside)}</tspan></text>'
        )
    return _svg(parts, len(rows) * ROW + 8, f"bars in {unit}")


def ranges(rows: Sequence[Range], unit: str) -> str:
    """Draw p50 to p99 on a logarithmic scale, as a dot, a line, a dot."""
    x, ticks = _log_scale([row.low for row in rows] + [row.high for row in rows], LABEL, WIDTH - 70)
    height = len(rows) * ROW + 4
    parts = [_tick(x(tick), height, f"{tick:g} {unit}") for tick in ticks]
    for index, row in enumerate(rows):
        middle = index * ROW + 4 + (ROW - 8) / 2
        low, high = x(row.low), x(row.high)
        parts.append(
            f'<text class="name {row.kind}" x="{LABEL - 10}" y="{middle}" text-anchor="end">{escape(row.name)}</text>'
            f'<line class="range {row.kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="{row.kind}" cx="{low:.1f}" cy="{middle}" r="5"/>'
            f'<circle class="{row.kind} hollow" cx="{high:.1f}" cy="{middle}" r="4.5"/>'
            f'<text class="value" x="{high + 9:.1f}" y="{middle}">{show(row.low)}'
            f'<tspan class="soft"> / {show(row.high)}</tspan></text>'
        )
    return _svg(parts, height + 22, f"p50 and p99 in {unit}")


def lines(
    rows: Sequence[Line],
    *,
    labels: Sequence[tuple[float, str]],
    unit: str,
    axis: str = "",
    logarithmic: bool = False,
    width: int = WIDTH,
    height: int = 230,
) -> str:
    """Draw lines over an axis with labels at its points."""
    left, right, bottom = 64, 96, 26
    xs = [point[0] for row in rows for point in row.points] + [at for at, _ in labels]
    ys = [point[1] for row in rows for point in row.points]
    low_x, high_x = min(xs), max(xs)

    def x(value: float) -> float:
        return left + (value - low_x) / ((high_x - low_x) or 1) * (width - left - right)

    if logarithmic:
        y, ticks = _log_scale(ys, height - bottom, 12)
    else:
        y, ticks = _linear_scale(max(ys), height - bottom, 12)
    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="axis" x="{left - 8}" y="{y(tick):.1f}" text-anchor="end">{_short(tick)}</text>'
        for tick in ticks
    ]
    parts += [
        f'<text class="axis" x="{x(at):.1f}" y="{height - 8}" text-anchor="middle">{escape(text)}</text>'
        for at, text in labels
    ]
    parts.append(f'<text class="axis" x="{width - right + 9}" y="{height - 8}">{escape(axis)}</text>')
    taken: list[float] = []
    for row in sorted(rows, key=lambda row: -row.points[-1][1]):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in row.points)
        end_x, end_y = x(row.points[-1][0]), y(row.points[-1][1])
        label_y = end_y
        while any(abs(label_y - other) < 14 for other in taken):
            label_y += 2
        taken.append(label_y)
        parts.append(f'<polyline class="line {row.kind}" points="{path}"/>')
        if len(row.points) < 12:
            parts += [f'<circle class="{row.kind}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>' for a, b in row.points]
        parts.append(f'<text class="end {row.kind}" x="{end_x + 9:.1f}" y="{label_y:.1f}">{escape(row.name)}</text>')
    return _svg(parts, height, f"lines in {unit}", width)


def timeline(counts: Sequence[float], *, step: float, start: float, marks: Sequence[tuple[float, str]]) -> str:
    """Draw the jobs that ended in each moment, as an area, with the moment of the kill."""
    height, left, bottom = 120, 64, 24
    top = max(max(counts, default=1), 1)
    end = start + len(counts) * step
    first = min(start, *(at for at, _ in marks)) if marks else start

    def x(at: float) -> float:
        return left + (at - first) / ((end - first) or 1) * (WIDTH - left - 24)

    def y(value: float) -> float:
        return height - bottom - value / top * (height - bottom - 26)

    points = [f"{x(start):.1f},{y(0):.1f}"]
    for index, count in enumerate(counts):
        points += [
            f"{x(start + index * step):.1f},{y(count):.1f}",
            f"{x(start + (index + 1) * step):.1f},{y(count):.1f}",
        ]
    points.append(f"{x(end):.1f},{y(0):.1f}")
    parts = [f'<polygon class="area" points="{" ".join(points)}"/>']
    parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 24}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>')
    parts.append(f'<text class="axis" x="{left - 8}" y="{y(top):.1f}" text-anchor="end">{_short(top / step)}/s</text>')
    parts += [
        f'<text class="axis" x="{x(second):.1f}" y="{height - 6}" text-anchor="middle">{second:g} s</text>'
        for second in range(math.ceil(first), math.floor(end) + 1)
        if (end - first) < 16 or second % 5 == 0
    ]
    for at, text in marks:
        parts.append(
            f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="12" y2="{height - bottom}"/>'
            f'<text class="mark" x="{x(at) + 5:.1f}" y="14">{escape(text)}</text>'
        )
    return _svg(parts, height, "jobs that ended over time")


def _svg(parts: Sequence[str], height: float, title: str, width: int = WIDTH) -> str:
    inside = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def _tick(x: float, height: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>'
        f'<text class="axis" x="{x:.1f}" y="{height + 12}" text-anchor="middle">{escape(text)}</text>'
    )


def _log_scale(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Compute positions on a logarithmic axis, and where its marks are."""
    above = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
    high += high == low

    def position(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return start + share * (end - start)

    return position, [10.0**power for power in range(low, high + 1)]


def _linear_scale(top: float, start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Compute positions on an axis from zero, and some round marks."""
    step = 10.0 ** math.floor(math.log10(top or 1.0))
    step = next(size for size in (step / 5, step / 2, step, step * 2) if (top or 1.0) / size <= 5)
    marks = [step * index for index in range(math.ceil((top or 1.0) / step) + 1)]

    def position(value: float) -> float:
        return start + value / marks[-1] * (end - start)

    return position, marks


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
