"""The report as one HTML page without scripts, fonts or other files; charts are inline SVG."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from examples.code_index.figures import Group, Package, Place, Report
from examples.code_index.trouble import Trouble

__all__ = ["render"]

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
COLOURS = {"standard library": "std", "installed": "ins", "broken on purpose": "bad"}
ROWS = 12  #: bars in a chart
MOST_LETTERS = 6  #: dead letters of a kind


def render(report: Report) -> str:
    """Return the whole page."""
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Code index: {report.submitted:,} files</title><style>{STYLE}</style></head><body><main>",
            *_header(report),
            *_tiles(report),
            '<div class="grid">',
            *_charts(report),
            *_table("Longest functions", "lines", report.longest),
            *_table("Most complex functions", "complexity", report.most_complex),
            "</div>",
            *_dead_letters(report),
            *_footer(report),
            "</main></body></html>\n",
        )
    )


# ── top ──────────────────────────────────────────────────────────────────────────────────────────


def _header(report: Report) -> Iterator[str]:
    yield "<header><p class=kicker>Code index</p><h1>Every Python file this interpreter can import</h1>"
    yield (
        f"<p class=lead>{report.submitted:,} files with {report.lines / 1e6:.2f} million lines, read and parsed by"
        f" {report.jobs:,} background jobs in {report.seconds:.1f} seconds.</p>"
    )
    yield from _accounts(report)
    yield from _trouble(report.trouble)
    yield "</header>"


def _accounts(report: Report) -> Iterator[str]:
    """Draw one bar for all files; even one dead letter in a thousand is visible."""
    total = max(report.submitted, 1)
    dead = max(report.dead / total, 0.012) if report.dead else 0.0
    missing = report.submitted - report.accounted
    verdict = "complete" if report.is_complete else "NOT complete"
    yield '<div class=accounts><svg viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="files">'
    yield f'<rect class=ok width="{1000 * (1 - dead):.1f}" height="14"/>'
    yield f'<rect class=bad x="{1000 * (1 - dead):.1f}" width="{1000 * dead:.1f}" height="14"/></svg><p>'
    yield f"<b>accounted for: {report.accounted:,} of {report.submitted:,} files</b> ({verdict})"
    yield f"<span><i class=ok></i>{report.indexed:,} indexed</span>"
    yield f"<span><i class=bad></i>{report.dead:,} dead letters, each with a reason</span>"
    if missing:
        yield f"<span><i class=bad></i>{missing:,} missing</span>"
    yield "</p></div>"


def _trouble(trouble: Trouble) -> Iterator[str]:
    """List what was killed in this run, if anything was."""
    if not trouble:
        return
    yield f"<section class=card><h2>Trouble, on purpose</h2><p class=sub>{escape(trouble.in_short)}</p><table>"
    yield "<tr><th>killed with SIGKILL<th class=number>after files</tr>"
    for worker in trouble.workers:
        words = f"with {worker.under_way:,} jobs under way; when its leases were over, others did them"
        yield _casualty(f"worker {worker.number}, pid {worker.pid}", words, worker.files_done)
    for server in trouble.servers:
        others = f"for good; the other {server.of - 1} went on"
        words = others if server.away is None else f"started again on the same data, away for {server.away:.2f} s"
        victim = "the server" if server.of == 1 else f"one of {server.of} servers"
        yield _casualty(f"{victim}, {server.server}", words, server.files_done)
    yield "</table></section>"


def _casualty(victim: str, words: str, files: int) -> str:
    return f"<tr><td>{escape(victim)}<small>{escape(words)}</small><td class=number>{files:,}</tr>"


def _tiles(report: Report) -> Iterator[str]:
    rate = report.jobs / max(report.seconds, 0.001)
    coverage = report.documented / max(report.documentable, 1)
    yield '<div class="tiles">'
    for number, name, words in (
        (f"{report.lines:,}", "lines", f"{report.size / 1e6:.1f} MB in {len(report.packages):,} packages"),
        (f"{report.functions:,}", "functions", f"and {report.classes:,} classes"),
        (f"{coverage:.0%}", "have a docstring", f"{report.documented:,} of {report.documentable:,}"),
        (f"{report.copies:,}", "copies", "files with the content of another"),
        (f"{rate:,.0f}", "jobs a second", f"{report.jobs:,} jobs, {report.jobs_succeeded:,} succeeded"),
        (f"{report.retried_attempts:,}", "attempts retried", "the catalogue was busy for a moment"),
        (
            f"{report.sent_again:,}",
            "duplicates sent",
            f"{report.answered_from_the_first:,} answered by the first job",
        ),
        (f"{report.compiler_warnings:,}", "compiler warnings", "in files that can be parsed"),
    ):
        yield f"<div class=tile><b>{number}</b><span>{name}</span><small>{words}</small></div>"
    yield "</div>"


# ── charts ───────────────────────────────────────────────────────────────────────────────────────


class Bar(NamedTuple):
    """One row of a bar chart; ``share`` is its part of the longest possible bar."""

    label: str
    share: float
    value: str
    colour: str
    tip: str


def _charts(report: Report) -> Iterator[str]:
    largest = report.packages[:ROWS]
    most = max((package.lines for package in largest), default=1)
    yield from _card(
        "Largest packages",
        "lines of code",
        _bars([_bar(package, package.lines / most, f"{package.lines:,}") for package in largest]),
        legend=True,
    )
    documentable = sorted(report.packages, key=lambda package: package.documentable, reverse=True)[:ROWS]
    documentable.sort(key=lambda package: package.coverage, reverse=True)
    yield from _card(
        "Docstring coverage",
        f"modules, classes and functions with a docstring, in the {len(documentable)} packages that have most of them",
        _bars([_bar(package, package.coverage, f"{package.coverage:.0%}") for package in documentable]),
        legend=True,
    )
    yield from _card(
        "Complexity of functions",
        "ways through a function, after McCabe; the scale is logarithmic",
        _columns(report.complexities),
    )
    yield from _card("Files finished", "a second, from the first job to the last", _area(report.timeline))


def _card(title: str, words: str, content: str, *, legend: bool = False) -> Iterator[str]:
    yield f"<section class=card><h2>{title}</h2><p class=sub>{escape(words)}</p>{content}"
    if legend:
        yield "<p class=legend><span><i class=std></i>standard library</span><span><i class=ins></i>installed</span>"
    yield "</section>"


def _bar(package: Package, share: float, value: str) -> Bar:
    tip = (
        f"{package.name} ({package.origin}): {package.files:,} files, {package.lines:,} lines,"
        f" {package.functions:,} functions, {package.coverage:.0%} documented"
    )
    return Bar(package.name, share, value, COLOURS[package.origin], tip)


def _bars(bars: Sequence[Bar]) -> str:
    """Draw horizontal bars, one below the other."""
    left, room, step = 150, 340, 25
    parts = [f'<svg viewBox="0 0 560 {step * len(bars)}" role="img">']
    for number, bar in enumerate(bars):
        middle = step * number + step / 2
        width = max(room * bar.share, 1.5)
        parts += (
            f"<g><title>{escape(bar.tip)}</title>",
            f'<text x="{left - 10}" y="{middle + 4.5}" class=right>{escape(_shortened(bar.label, 20))}</text>',
            f'<rect class="track" x="{left}" y="{middle - 8}" width="{room}" height="16" rx="3"/>',
            f'<rect class="{bar.colour}" x="{left}" y="{middle - 8}" width="{width:.1f}" height="16" rx="3"/>',
            f'<text x="{left + room + 8}" y="{middle + 4.5}" class=num>{bar.value}</text></g>',
        )
    return "".join((*parts, "</svg>"))


def _columns(counts: dict[str, int]) -> str:
    """Draw columns on a logarithmic scale: from one function to all of them."""
    left, base, height = 44, 230, 205
    top = max(math.ceil(math.log10(max((*counts.values(), 10)))), 1)
    step = (560 - left) / max(len(counts), 1)
    parts = ['<svg viewBox="0 0 560 256" role="img">']
    for power in range(top + 1):
        y = base - height * power / top
        parts += (
            f'<line class=rule x1="{left}" x2="560" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="right faint" x="{left - 8}" y="{y + 4:.1f}">{_round_number(10**power)}</text>',
        )
    total = max(sum(counts.values()), 1)
    for number, (label, count) in enumerate(counts.items()):
        tall = height * math.log10(count) / top if count else 0.0
        x, y = left + step * number, base - tall
        parts += (
            f"<g><title>{label}: {count:,} functions, {count / total:.2%}</title>",
            f'<rect class="heat{number}" x="{x + 12:.1f}" y="{y:.1f}" width="{step - 24:.1f}" height="{tall:.1f}"/>',
            f'<text class="mid num" x="{x + step / 2:.1f}" y="{y - 6:.1f}">{count:,}</text>',
            f'<text class="mid" x="{x + step / 2:.1f}" y="{base + 19}">{label}</text></g>',
        )
    return "".join((*parts, "</svg>"))


def _area(timeline: Sequence[tuple[float, int]]) -> str:
    """Compute the files finished in each second from totals at some points in time."""
    rates = _rates(timeline, 48)
    end, most = max(timeline[-1][0], 0.1), max((*rates, 1.0))
    left, base, height = 44, 230, 205
    step = (560 - left) / max(len(rates) - 1, 1)
    points = [(left + step * number, base - height * rate / most) for number, rate in enumerate(rates)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = ['<svg viewBox="0 0 560 256" role="img">']
    for share in (0.0, 0.5, 1.0):
        y = base - height * share
        parts += (
            f'<line class=rule x1="{left}" x2="560" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="right faint" x="{left - 8}" y="{y + 4:.1f}">{most * share:,.0f}</text>',
        )
    for share, where in ((0.0, ""), (0.5, "mid"), (1.0, "right")):
        x = left + (560 - left) * share
        parts.append(f'<text class="{where} faint" x="{x:.1f}" y="{base + 19}">{end * share:.1f} s</text>')
    parts.append(
        f'<polygon class=area points="{left},{base} {line} 560,{base}"/><polyline class=line points="{line}"/>'
    )
    return "".join((*parts, "</svg>"))


def _rates(timeline: Sequence[tuple[float, int]], number: int) -> list[float]:
    end = max(timeline[-1][0], 0.1)
    span = end / number
    times = [when for when, _ in timeline]
    counts = [timeline[min(bisect_left(times, span * step), len(timeline) - 1)][1] for step in range(number + 1)]
    return [(after - before) / span for before, after in pairwise(counts)]


# ── tables and text ──────────────────────────────────────────────────────────────────────────────


def _table(title: str, what: str, places: Sequence[Place]) -> Iterator[str]:
    yield f"<section class=card><h2>{title}</h2><p class=sub>at most one of each file</p><table>"
    yield f"<tr><th>function<th class=number>{what}</tr>"
    for place in places:
        function = place.function
        number = function.lines if what == "lines" else function.complexity
        where = f"{escape(_shortened(place.file, 52))}:{function.line}"
        yield f"<tr><td><code>{escape(function.name)}</code><small>{where}</small><td class=number>{number:,}</tr>"
    yield "</table></section>"


def _dead_letters(report: Report) -> Iterator[str]:
    yield "<h2 class=big>What could not be indexed</h2>"
    yield (
        "<p class=lead>No job is dropped in silence. What cannot succeed ends as a dead letter with its reason,"
        " its arguments and every error, and can be replayed when the cause is gone.</p>"
    )
    yield '<div class="letters">'
    for group in report.dead_letters:
        yield from _group(group)
    yield "</div>"


def _group(group: Group) -> Iterator[str]:
    yield f"<section class=card><h3><b>{group.count:,}</b> {escape(group.kind)}</h3>"
    yield f"<p>{escape(group.means)}</p><p class=advice>{escape(group.advice)}</p><ul>"
    for letter in group.letters[-MOST_LETTERS:]:
        attempts = f"{letter.attempts} attempt{'s' * (letter.attempts != 1)}"
        yield f"<li><code>{escape(letter.file)}</code><small>{escape(letter.problem)} · {attempts}</small></li>"
    if group.count > MOST_LETTERS:
        yield f"<li><small>and {group.count - MOST_LETTERS:,} more, in report.json</small></li>"
    yield "</ul></section>"


def _footer(report: Report) -> Iterator[str]:
    where = report.conditions
    facts = (
        where.python,
        f"{where.machine}, {where.cores} cores",
        f"broker {where.backend}",
        f"results in {where.store}",
        f"worker {where.workers}",
        f"{report.letters:,} dead letters read and dropped, {report.letters_left:,} left",
    )
    yield f"<footer><p>{' · '.join(map(escape, facts))}</p>{_most_imported(report.most_imported)}</footer>"


def _most_imported(names: dict[str, int]) -> str:
    listed: Iterable[str] = (f"<code>{escape(name)}</code> {count:,}" for name, count in names.items())
    return f"<p>Imported by most files: {', '.join(listed)}</p>"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _round_number(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 else str(number)
