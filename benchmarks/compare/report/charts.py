"""Which plots a report has, and from which figures they are drawn."""

from __future__ import annotations

import math

from benchmarks.compare.report.svg import Bar, Line, Range, bars, lines, ranges, timeline
from benchmarks.compare.run import RAW, US, Run
from taskcore.testing.bench import Figure

__all__ = ["cpu", "kill", "latencies", "percentiles", "processes", "race"]


def kind_of(figure: Figure) -> str:
    """The class of a contestant."""
    return {US: "us", RAW: "raw"}.get(figure.who, "peer")


def note_of(figure: Figure) -> str:
    """What has to stand beside a value: jobs that were lost, or ran twice."""
    told = [f"{figure.facts[key]} {key}" for key in ("lost", "duplicated") if figure.facts.get(key)]
    return ", ".join(told)


def race(run: Run, broker: str, scenario: str, name: str) -> str:
    """Everybody on one broker."""
    found = run.race(broker, scenario, name)
    if not found:
        return ""
    return bars([Bar(one.who, one.values, kind_of(one), note_of(one)) for one in found], found[0].unit)


def latencies(run: Run, broker: str) -> str:
    """p50 and p99 of everybody at the lowest arrival rate that all share."""
    found = []
    for low in run.figures:
        if low.broker == broker and low.scenario == "latency" and low.name.endswith("p50"):
            high = run.find(broker, low.who, "latency", low.name.replace("p50", "p99"))
            if high is not None:
                found.append((low, high))
    shared = {low.name for low, _ in found if low.who != US} or {low.name for low, _ in found[:1]}
    rows = [
        Range(low.who, low.median, high.median, kind_of(low))
        for low, high in sorted(found, key=lambda pair: pair[0].median)
        if low.name in shared
    ]
    return ranges(rows, "ms") if rows else ""


def percentiles(run: Run, broker: str) -> str:
    """The whole distribution at each arrival rate, the last percent as wide as all before it."""
    rows = []
    for index, figure in enumerate(one for one in run.ours("latency") if one.broker == broker and "curve" in one.facts):
        curve = figure.facts["curve"]
        at = [*range(1, 100), 99.5, 99.9][: len(curve)]
        if figure.facts.get("measured", 0) < 1_000:
            at, curve = at[:99], curve[:99]
        points = [(-math.log10(1 - percent / 100), value) for percent, value in zip(at, curve, strict=True)]
        rows.append(Line(f"{figure.facts['rate']:g}/s", points, f"c{index}"))
    if not rows:
        return ""
    end = max(point[0] for row in rows for point in row.points)
    labels = [(0.0, "min"), (0.30103, "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9")]
    labels = [label for label in labels if label[0] <= end + 0.01]
    return lines(rows, labels=labels, unit="ms", logarithmic=True)


def processes(run: Run) -> str:
    """Drain by number of worker processes, a line for each broker."""
    rows = []
    for index, broker in enumerate(run.brokers):
        points = [
            (math.log2(number), figure.median)
            for number in (1, 2, 4)
            if (figure := run.find(broker, US, "drain", f"{number} process{'es' if number > 1 else ''}"))
        ]
        if len(points) > 1:
            rows.append(Line(run.title(broker), points, f"c{index}"))
    return lines(rows, labels=[(0, "1"), (1, "2"), (2, "4")], unit="jobs/s", axis="processes") if rows else ""


def cpu(run: Run, broker: str) -> str:
    """CPU of worker and broker together, a job."""
    rows = []
    for figure in run.race(broker, "cost", "worker CPU"):
        other = run.find(broker, figure.who, "cost", "broker CPU")
        whole = figure.median + (other.median if other else 0.0)
        note = f"worker {figure.median:.0f}" + (f", broker {other.median:.0f}" if other else "")
        rows.append(Bar(figure.who, (whole,), kind_of(figure), note))
    return bars(sorted(rows, key=lambda row: row.values[0]), "µs/job") if rows else ""


def kill(figure: Figure) -> str:
    """What happened around a kill."""
    facts = figure.facts
    marks = [(0.0, "SIGKILL")]
    if "down" in facts:
        marks.append((facts["down"], "back"))
    return timeline(facts["timeline"], step=facts["bin"], start=facts["from"], marks=marks)
