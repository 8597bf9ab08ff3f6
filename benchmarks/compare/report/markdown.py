"""The report as Markdown, for the repository: the same figures in tables, each with the command that measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.compare.report.aims import AIMED, aim_rows, unmeasured
from benchmarks.compare.report.slower import LOSSES, SLOWER, TIES, loss_rows, losses
from benchmarks.compare.report.wording import factor, spread, took
from benchmarks.compare.run import RAW, US, Run
from taskcore.bench import Figure, show

__all__ = ["markdown"]

RACES = (
    ("drain", "1 process", "Drain: a full queue, one worker process"),
    ("enqueue", "one awaited", "Enqueue: one awaited after another"),
    ("enqueue", "bulk", "Enqueue: in bulk"),
    ("results", "round trips, 100 at once", "Results: round trips, 100 at once"),
    ("cost", "worker CPU", "CPU of the worker"),
)


def markdown(run: Run) -> str:
    """Return the whole page."""
    parts = [*_head(run)]
    for scenario, name, title in RACES:
        parts += _race(run, scenario, name, title)
    parts += [
        *_latency(run),
        *_killed(run),
        *_ours(run),
        *_aims(run),
        *_slower(run),
        *_settings(run),
        *_missing(run),
        *_again(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _head(run: Run) -> Iterator[str]:
    machine = run.machine
    yield "# Benchmarks"
    yield ""
    yield "<!-- Written by `python -m benchmarks.compare --docs`; run it again instead of editing this page. -->"
    yield ""
    yield "*How fast, with which guarantee, and where are other libraries faster?* [Measuring](guides/measuring.md) says how"
    yield "it is measured, and what it cannot show."
    yield ""
    yield f"One run, {machine.when[:10]}, {run.lasted}: {machine.cpu}, {machine.cores} cores,"
    yield f"{machine.memory / 2**30:.0f} GiB, {machine.system}, {machine.python}, {machine.loop},"
    yield f"taskcore {machine.commit or machine.taskcore}. Load at the start: {machine.load[0] if machine.load else 0:g}."
    if run.busy:
        yield "**The machine was busy, so do not quote these figures.**"
    yield ""
    yield "```console"
    yield f"$ {machine.command}"
    yield "```"
    yield ""
    yield "Jobs of 200 bytes that do nothing, acknowledged after the run; private servers. In each round all candidates take turns"
    yield "at a scenario, one right after another, before the next scenario starts. Figures are medians of the rounds, and half of"
    yield "their spread; a ratio is the median of the rounds' own ratios, with the minimum and the maximum. Compare figures within"
    yield "this page only: another machine has other absolute figures."
    yield ""


def _race(run: Run, scenario: str, name: str, title: str) -> Iterator[str]:
    found = {broker: run.race(broker, scenario, name) for broker in run.brokers}
    if not any(found.values()):
        return
    yield f"## {title}"
    yield ""
    for broker, figures in found.items():
        ours = run.find(broker, US, scenario, name)
        rows = []
        for figure in figures:
            ratio = run.ratio(ours, figure) if ours is not None and figure.who != US else None
            counts = [_counts(figure)] if any(map(_counts, figures)) else []
            rows.append([_name(figure), _value(figure), factor(ratio) if ratio else "", *counts])
        if rows:
            names = [f"**{run.title(broker)}**", figures[0].unit, "taskcore is better by", "lost, ran twice"]
            yield from _table(names[: len(rows[0])], rows)
    yield from _command(run, scenario)


def _latency(run: Run) -> Iterator[str]:
    rows = []
    for broker in run.brokers:
        rates = dict.fromkeys(
            figure.name.removesuffix(", p50")
            for figure in run.figures
            if (figure.broker, figure.scenario) == (broker, "latency") and figure.name.endswith(", p50")
        )
        for rate in rates:
            for low in run.race(broker, "latency", f"{rate}, p50"):
                cells = [run.find(broker, low.who, "latency", f"{rate}, {p}") for p in ("p90", "p95", "p99", "p99.9")]
                shown = [show(cell.median) if cell else "–" for cell in cells]
                rows.append(
                    [run.title(broker), rate, _name(low), _value(low), *shown, f"{low.facts.get('measured', 0):,}"]
                )
    if not rows:
        return
    yield "## Latency: from the intended time of an enqueue to the function's start"
    yield ""
    yield "Open loop: jobs arrive at fixed times, and a late sender worsens its own figure. Milliseconds; each percentile is the"
    yield "median of the rounds. There is no p99.9 where a round has fewer than 1,000 jobs."
    yield ""
    yield from _table(["broker", "arrivals", "candidate", "p50", "p90", "p95", "p99", "p99.9", "jobs a round"], rows)
    yield from _command(run, "latency")


def _killed(run: Run) -> Iterator[str]:
    rows = []
    for figure in sorted(run.figures, key=lambda one: (run.brokers.index(one.broker), one.scenario)):
        facts = figure.facts
        if figure.scenario in ("worker killed", "broker killed") and "lost" in facts:
            lost = f"**{facts['lost']}**" if facts["lost"] else "0"
            cells = [f"{facts['sent']:,}", str(facts.get("in_hand", "–")), lost, str(facts["duplicated"]), took(figure)]
            rows.append([run.title(figure.broker), figure.scenario, _name(figure), str(len(figure.values)), *cells])
    rows += [
        [run.title(one.broker), scenario, one.who, *"–––––", one.why.replace("|", "\\|")]
        for scenario in ("worker killed", "broker killed")
        for one in run.failed(scenario)
    ]
    if not rows:
        return
    yield "## Killed: SIGKILL in the middle"
    yield ""
    yield "Counted from ids in a ledger file, all rounds together. Missing: accepted, but not ended when no job has ended for 15"
    yield "seconds. Ran twice: to the end. How long: after a killed worker until all jobs have ended; after a killed broker from its"
    yield "return until jobs end again."
    yield ""
    names = ["broker", "what", "candidate", "kills", "jobs", "in hand", "missing", "ran twice", "how long"]
    yield from _table(names, rows)
    yield from _command(run, "killed")


def _ours(run: Run) -> Iterator[str]:
    ours = [figure for figure in run.figures if figure.who == US]
    brokers = [broker for broker in run.brokers if any(figure.broker == broker for figure in ours)]
    rows = []
    for scenario, name, unit in dict.fromkeys((figure.scenario, figure.name, figure.unit) for figure in ours):
        cells = [run.find(broker, US, scenario, name) for broker in brokers]
        rows.append([f"{scenario}: {name}", unit, *(_value(cell) if cell else "–" for cell in cells)])
    yield "## Broker by broker: all of taskcore's figures"
    yield ""
    yield from _table(["", "", *(run.title(broker) for broker in brokers)], rows)


def _aims(run: Run) -> Iterator[str]:
    rows = [[*row[:3], _loud(row[3]), row[4]] for row in aim_rows(run)]
    if not rows:
        return
    yield "## What taskcore aims at"
    yield ""
    yield AIMED
    yield ""
    yield from _table(["broker", "aim", "measured", "holds", "why not"], rows)
    if missing := unmeasured(run):
        yield f"Not measured in this run: {'; '.join(missing)}."
        yield ""


def _slower(run: Run) -> Iterator[str]:
    yield "## Where taskcore is slower"
    yield ""
    found = losses(run)
    slower = loss_rows(run, [loss for loss in found if not loss.tie])
    yield SLOWER if slower else "In no figure of this run by more than 5% in every round."
    yield ""
    if slower:
        yield from _table(LOSSES, slower)
    if ties := loss_rows(run, [loss for loss in found if loss.tie]):
        yield TIES
        yield ""
        yield from _table(LOSSES, ties)


def _settings(run: Run) -> Iterator[str]:
    yield "## Settings of all candidates"
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.machine.versions.items()))
    yield f"Servers and libraries: {versions}."
    yield ""
    rows = [
        [one.who, one.version, one.settings + (f" [Docs]({one.source})." if one.source else "")]
        for one in run.contestants
    ]
    yield from _table(["candidate", "version", "settings and guarantee"], rows)


def _missing(run: Run) -> Iterator[str]:
    brokers = run.brokers
    yield "## Rounds"
    yield ""
    rows = [[scenario, *(found.get(broker, "–") for broker in brokers)] for scenario, found in run.rounds()]
    yield from _table(["", *map(run.title, brokers)], rows)
    if run.skipped:
        yield "## Not measured"
        yield ""
        yield from _table(
            ["broker", "candidate", "what", "why"],
            [[run.title(one.broker), one.who, one.scenario, one.why.replace("|", "\\|")] for one in run.skipped],
        )


def _again() -> Iterator[str]:
    yield "## Repeat it"
    yield ""
    yield "```console"
    yield "$ python -m benchmarks.compare              # all of this, on your machine"
    yield "$ taskcore bench redis://…                  # taskcore alone, on your broker"
    yield "$ python benchmarks/peers celery redis://…  # one peer alone"
    yield "```"


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _command(run: Run, scenario: str) -> Iterator[str]:
    yield f"`{run.command('drain' if scenario == 'cost' else scenario)}`"
    yield ""


def _loud(verdict: str) -> str:
    return f"**no**{verdict.removeprefix('no')}" if verdict.startswith("no") else verdict


def _name(figure: Figure) -> str:
    return f"**{figure.who}**" if figure.who == US else f"*{figure.who}*" if figure.who == RAW else figure.who


def _value(figure: Figure) -> str:
    return f"{show(figure.median)} {spread(figure)}".rstrip()


def _counts(figure: Figure) -> str:
    facts = figure.facts
    return f"{facts['lost']}, {facts['duplicated']}" if "lost" in facts and "duplicated" in facts else ""
