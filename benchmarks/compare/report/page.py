"""The report as one HTML file: no script, no font, no picture from elsewhere; light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.compare.report import charts
from benchmarks.compare.report.aims import AIMED, aim_rows, unmeasured
from benchmarks.compare.report.slower import LOSSES, SLOWER, TIES, loss_rows, losses
from benchmarks.compare.report.wording import spread, times, took
from benchmarks.compare.run import RAW, US, Run
from taskcore.bench import Figure, show

__all__ = ["page"]

STYLE = Path(__file__).with_name("style.css")
KILLS = ("worker killed", "broker killed")


def page(run: Run) -> str:
    """Return the whole page."""
    body = "".join(
        part(run)
        for part in (
            head, drain, guarantees, enqueue, latency, results, scaling, costs, everything, aims, slower, contestants, missing, again,
        )
    )  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>taskcore: brokers and peers compared</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<style>{STYLE.read_text()}</style></head><body><main>{body}</main></body></html>"
    )


def head(run: Run) -> str:
    """Return the head: the subject, where it was measured, and the four figures to remember."""
    machine = run.machine
    counted = [figure for figure in run.figures if figure.who == US and "lost" in figure.facts]
    lost = sum(figure.lost for figure in counted)
    jobs = sum(figure.facts.get("jobs", figure.facts.get("sent", 0)) for figure in counted)
    tiles = []
    for broker in run.brokers:
        ours = run.find(broker, US, "drain", "1 process")
        rivals = [one for one in run.race(broker, "drain", "1 process") if one.who not in (US, RAW)]
        if ours is not None:
            ratio = run.ratio(ours, rivals[0]) if rivals else None
            beside = f"{times(ratio.middle)}× {rivals[0].who}, the best of the others" if ratio else "one process"
            tiles.append(
                f"<li><b>{show(ours.median)}</b> jobs/s<span>{run.title(broker)} drained</span><i>{escape(beside)}</i></li>"
            )
    warning = (
        f'<p class="warning">The machine was busy when this began (load {machine.load[0]:g}): do not quote these figures.</p>'
        if run.busy
        else ""
    )
    return (
        "<header><h1>Brokers by guarantee, taskcore and its peers</h1>"
        f"<p>{escape(machine.cpu)}, {machine.cores} cores, {machine.memory / 2**30:.0f} GiB · {escape(machine.system)} · "
        f"{escape(machine.python)} · {escape(machine.loop)} · {machine.when[:10]}, {run.lasted}<br>"
        f"<code>{escape(machine.command)}</code></p>{warning}<ul class='tiles'>{''.join(tiles)}"
        f"<li><b>{lost}</b> of {jobs:,}<span>taskcore jobs lost</span><i>counted from ids, kills included</i></li></ul>"
        "<p>All candidates ran on the same machine, on a private server for each broker, with jobs of 200 bytes that do nothing, "
        "acknowledged after the run. In each round they take turns at a scenario, one right after another, before the next "
        "scenario starts. Bars are medians, dots are rounds; a ratio is the median of the rounds' own ratios. Compare within this "
        "page; another machine gives other absolute figures.</p></header>"
    )


def drain(run: Run) -> str:
    """Return the first plot."""
    parts = [
        _plot(run.title(broker), charts.race(run, broker, "drain", "1 process"), "jobs/s") for broker in run.brokers
    ]
    text = "A full queue, one worker process, from the first start to the last end. “5×”: taskcore is five times as fast, round by round."
    return _section("Drain", text, parts, run.command("drain"))


def guarantees(run: Run) -> str:
    """Show what each candidate lost and ran twice, and the course of taskcore's runs."""
    rows = []
    for figure in sorted(run.figures, key=lambda one: (run.brokers.index(one.broker), one.scenario)):
        if figure.scenario not in KILLS or "lost" not in figure.facts:
            continue
        facts = figure.facts
        rows.append(
            [
                run.title(figure.broker), figure.scenario, _who(figure), str(len(figure.values)), f"{facts['sent']:,}",
                str(facts.get("in_hand", "–")), _loud(facts["lost"]), str(facts["duplicated"]), took(figure),
            ]
        )  # fmt: skip
    rows += [
        [run.title(one.broker), scenario, escape(one.who), *"–––––", f"<b class='loud'>{escape(one.why)}</b>"]
        for scenario in KILLS
        for one in run.failed(scenario)
    ]
    if not rows:
        return ""
    names = [
        "broker",
        "what",
        "candidate",
        "kills",
        "jobs",
        "in hand",
        "missing",
        "ran twice",
        "all ended, or jobs end again, after",
    ]
    table = _table(names, rows, "short")
    plots = [
        _plot(f"{run.title(figure.broker)}, {figure.scenario}", charts.kill(figure), "jobs ended")
        for figure in run.figures
        if figure.who == US and figure.scenario in KILLS and figure.facts.get("timeline")
    ]
    text = (
        "SIGKILL in the middle, then the same command again. Jobs sign a ledger file when they start and when they end; "
        "an accepted job is missing if it has not ended when no job has ended for 15 seconds; whether it would ever come back is not measured. A job that was running when its "
        "worker died comes back when its lease expires, so a library with a shorter lease recovers faster."
    )
    return _section("Killed", text, [table, *plots], run.command("killed"))


def enqueue(run: Run) -> str:
    """Return the section on enqueueing: one awaited, and bulk."""
    parts = []
    for broker in run.brokers:
        parts += [
            _plot(f"{run.title(broker)}, {name}", charts.race(run, broker, "enqueue", name), "jobs/s")
            for name in ("one awaited", "bulk")
        ]
    text = "One process that sends. “one awaited”: the next when the broker has confirmed the last. “bulk”: the fastest documented way."
    return _section("Enqueue", text, parts, run.command("enqueue"))


def latency(run: Run) -> str:
    """Draw all candidates at low load, and taskcore at all rates."""
    parts = []
    for broker in run.brokers:
        parts += [
            _plot(f"{run.title(broker)}, {rate}: p50 ● and p99 ○", charts.latencies(run, broker, rate), "ms")
            for rate in charts.shared_rates(run, broker)
        ]
        parts.append(
            _plot(f"{run.title(broker)}, taskcore at fixed arrival rates", charts.percentiles(run, broker), "ms")
        )
    text = (
        "Open loop: jobs arrive at fixed times, and each is measured from the time at which it was to be sent until its "
        "function starts, so a system that falls behind cannot hide it (no coordinated omission). Percentiles are medians of the rounds'."
    )
    return _section("Latency", text, parts, run.command("latency"))


def results(run: Run) -> str:
    """Return the section on round trips."""
    parts = []
    for broker in run.brokers:
        name = "round trips, 100 at once"
        parts.append(
            _plot(f"{run.title(broker)}, 100 at once", charts.race(run, broker, "results", name), "round trips/s")
        )
    return _section("Results", "From enqueue to the caller's result.", parts, run.command("results"))


def scaling(run: Run) -> str:
    """Return the section on more processes."""
    plot = _plot("taskcore, by worker processes", charts.processes(run), "jobs/s")
    text = f"The machine has {run.machine.cores} cores, and broker, sender and workers share them."
    return _section("More processes", text, [plot], run.command("drain"))


def costs(run: Run) -> str:
    """Return the section on CPU a job, idle workers, and storage."""
    parts = [
        _plot(f"{run.title(broker)}, CPU a job", charts.cpu(run, broker), "µs of worker and broker together")
        for broker in run.brokers
    ]
    rows = [
        [run.title(figure.broker), f"{figure.scenario}: {figure.name}", show(figure.median), figure.unit]
        for scenario in ("idle", "storage")
        for figure in run.ours(scenario)
    ]
    if rows:
        parts.append(_table(["broker", "taskcore", "", ""], rows))
    return _section(
        "What it costs", "CPU times from /proc, during the drain.", parts, run.command("drain,idle,storage")
    )


def everything(run: Run) -> str:
    """Return all figures of ours, broker beside broker."""
    ours = [figure for figure in run.figures if figure.who == US]
    brokers = [broker for broker in run.brokers if any(figure.broker == broker for figure in ours)]
    kinds = dict.fromkeys((figure.scenario, figure.name, figure.unit) for figure in ours)
    rows = []
    for scenario, name, unit in kinds:
        cells = [run.find(broker, US, scenario, name) for broker in brokers]
        rows.append([f"{scenario}: {name}", unit, *(_cell(cell) for cell in cells)])
    table = _table(["", "", *(run.title(broker) for broker in brokers)], rows)
    text = "Medians, and half of the spread between the rounds in percent."
    return _section("All of taskcore's figures, broker by broker", text, [table], run.machine.command)


def aims(run: Run) -> str:
    """Return the aims, and whether they hold."""
    rows = [
        [*cells[:3], f"<b class='loud'>{cells[3]}</b>" if cells[3].startswith("no") else cells[3], cells[4]]
        for cells in _escaped(aim_rows(run))
    ]
    missing = "; ".join(unmeasured(run))
    parts = [
        _table(["broker", "aim", "measured", "holds", "why not"], rows) if rows else "",
        f"<p>Not measured in this run: {escape(missing)}.</p>" if rows and missing else "",
    ]
    return _section("What taskcore aims at", AIMED, parts, run.machine.command)


def slower(run: Run) -> str:
    """Return what was found by comparing."""
    found = losses(run)
    lost, ties = (loss_rows(run, [loss for loss in found if loss.tie is tie]) for tie in (False, True))
    parts = [
        _table(LOSSES, _escaped(lost)) if lost else "<p>In no figure of this run by more than 5% in every round.</p>"
    ]
    if ties:
        parts += [f"<p>{TIES}</p>", _table(LOSSES, _escaped(ties))]
    return _section("Where taskcore is slower", SLOWER, parts, run.machine.command)


def contestants(run: Run) -> str:
    """List the settings of all candidates."""
    rows = [
        [
            escape(one.who),
            escape(one.version),
            escape(one.settings),
            f'<a href="{escape(one.source)}">docs</a>' if one.source else "",
        ]
        for one in run.contestants
    ]
    table = _table(["candidate", "version", "settings and guarantee", ""], rows)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.machine.versions.items()))
    text = f"Servers and libraries here: {escape(versions)}. taskcore at {escape(run.machine.commit or run.machine.taskcore)}."
    return _section("Settings of all candidates", text, [table], "")


def missing(run: Run) -> str:
    """Return how often each was measured; what was not, and why."""
    rounds = [[scenario, *(found.get(broker, "–") for broker in run.brokers)] for scenario, found in run.rounds()]
    rows = [[run.title(one.broker), escape(one.who), one.scenario, escape(one.why)] for one in run.skipped]
    section = _section("Rounds", "", [_table(["", *map(run.title, run.brokers)], rounds)], "")
    return section + (
        _section("Not measured", "", [_table(["broker", "candidate", "what", "why"], rows)], "") if rows else ""
    )


def again(_: Run) -> str:
    """Return how to repeat the run."""
    return (
        "<section><h2>Repeat it</h2><pre>python -m benchmarks.compare            # this report, on your machine\n"
        "taskcore bench redis://…                # taskcore alone, on your broker\n"
        "python benchmarks/peers celery redis://…   # one peer alone</pre>"
        "<p>The raw figures are in <code>raw.jsonl</code> beside this file, one JSON object a line.</p></section>"
    )


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────


def _section(title: str, text: str, parts: Sequence[str], command: str) -> str:
    inside = "".join(part for part in parts if part)
    if not inside:
        return ""
    again = f'<p class="command"><code>{escape(command)}</code></p>' if command else ""
    anchor = title.lower().replace(" ", "-")
    return f'<section id="{anchor}"><h2>{title}</h2><p>{text}</p>{inside}{again}</section>'


def _plot(title: str, svg: str, unit: str) -> str:
    return f"<figure><figcaption>{escape(title)}<span>{escape(unit)}</span></figcaption>{svg}</figure>" if svg else ""


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide {kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(map(escape, row)) for row in rows]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    return f"{show(figure.median)} <span class='soft'>{spread(figure)}</span>"


def _who(figure: Figure) -> str:
    return f"<b>{US}</b>" if figure.who == US else escape(figure.who)


def _loud(number: int) -> str:
    return f"<b class='loud'>{number}</b>" if number else "0"
