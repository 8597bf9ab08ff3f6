"""Which plots a report has, and from which figures they are drawn."""

from __future__ import annotations

import math

from benchmarks.compare.report.svg import Bar, Line, Range, bars, lines, ranges, timeline
from benchmarks.compare.run import RAW, US, Run
from taskcore.bench import Figure

__all__ = ["cpu", "kill", "latencies", "percentiles", "processes", "race", "shared_rates"]


def kind_of(figure: Figure) -> str:
    """Return the class of a contestant."""
    return {US: "us", RAW: "raw"}.get(figure.who, "peer")


def note_of(figure: Figure) -> str:
    """Return what has to stand beside a value: jobs that were lost, or ran twice."""
    text = [f"{figure.facts[key]} {key}" for key in ("lost", "duplicated") if figure.facts.get(key)]
    return ", ".join(text)


def race(run: Run, broker: str, scenario: str, name: str) -> str:
    """Draw all candidates on one broker."""
    found = run.race(broker, scenario, name)
    if not found:
        return ""
    ours = run.find(broker, US, scenario, name)
    ratios = [run.ratio(ours, one) if ours is not None and kind_of(one) == "peer" else None for one in found]
    rows = [
        Bar(one.who, one.values, kind_of(one), note_of(one), ratio.middle if ratio else None)
        for one, ratio in zip(found, ratios, strict=True)
    ]
    return bars(rows, found[0].unit)


def shared_rates(run: Run, broker: str) -> list[str]:
    """Return the arrival rates that others bore, too, such as ``50/s``; without others, our lowest."""
    rates = {
        who: [figure.name.removesuffix(", p50") for figure in run.figures if _is_median(figure, broker, who == US)]
        for who in (US, "others")
    }
    return list(dict.fromkeys(rates["others"])) or rates[US][:1]


def _is_median(figure: Figure, broker: str, ours: bool) -> bool:
    is_median = figure.scenario == "latency" and figure.name.endswith(", p50")
    return is_median and figure.broker == broker and (figure.who == US) == ours


def latencies(run: Run, broker: str, rate: str) -> str:
    """Draw p50 and p99 of all candidates at one arrival rate."""
    rows = []
    for low in run.race(broker, "latency", f"{rate}, p50"):
        high = run.find(broker, low.who, "latency", f"{rate}, p99")
        if high is not None:
            rows.append(Range(low.who, low.median, high.median, kind_of(low)))
    return ranges(rows, "ms") if rows else ""


def percentiles(run: Run, broker: str) -> str:
    """Draw the whole distribution at each arrival rate, the last percent as wide as all before it."""
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
    """Draw the CPU of worker and broker together, a job."""
    rows = []
    for figure in run.race(broker, "cost", "worker CPU"):
        other = run.find(broker, figure.who, "cost", "broker CPU")
        whole = figure.median + (other.median if other else 0.0)
        note = f"worker {figure.median:.0f}" + (f", broker {other.median:.0f}" if other else "")
        rows.append(Bar(figure.who, (whole,), kind_of(figure), note))
    return bars(sorted(rows, key=lambda row: row.values[0]), "µs/job") if rows else ""


def kill(figure: Figure) -> str:
    """Draw what happened around a kill."""
    facts = figure.facts
    marks = [(0.0, "SIGKILL")]
    if "down" in facts:
        marks.append((facts["down"], "back"))
    return timeline(facts["timeline"], step=facts["bin"], start=facts["from"], marks=marks)
