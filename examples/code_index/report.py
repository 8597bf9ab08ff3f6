"""The report as files and as lines in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from examples.code_index.figures import Report
from examples.code_index.page import render
from examples.code_index.trouble import Trouble

__all__ = ["summary", "write_report"]

WIDTH = 100


def write_report(report: Report, out: Path) -> None:
    """Write ``report.json`` and ``report.html``, which needs no other file."""
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (out / "report.html").write_text(render(report), encoding="utf-8")


def summary(report: Report, out: Path, *, short: bool = False) -> str:
    """Return the lines for the end of a run."""
    lines = [] if short else [*_table(report), ""]
    if not report.is_complete:
        lines += _missing(report)
    if report.trouble:
        lines.append(report.trouble.in_short)
    lines += [
        f"accounted for: {report.accounted:,} of {report.submitted:,} files",
        f"report: {_near(out / 'report.html')}",
    ]
    return "\n".join(lines)


def _near(path: Path) -> Path:
    """Return the path relative to the working directory, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _table(report: Report) -> Iterator[str]:
    where = report.conditions
    rate = report.jobs / max(report.seconds, 0.001)
    yield ""
    yield f"{where.python} on {where.machine}, {where.cores} cores · {where.backend} · worker: {where.workers}"
    yield ""
    yield _row("files", report.submitted, f"{report.indexed:,} indexed, {report.dead:,} dead letters")
    yield _row("jobs", report.jobs, f"in {report.seconds:.1f} s, {rate:,.0f} a second")
    yield _row("retried attempts", report.retried_attempts, "the catalogue was busy, and free a moment later")
    yield _row("duplicates", report.sent_again, f"sent again, {report.answered_from_the_first:,} got the first outcome")
    yield from _trouble(report.trouble)
    yield _row("lines", report.lines, f"{report.size / 1e6:,.1f} MB; {report.copies:,} files are copies of others")
    coverage = report.documented / max(report.documentable, 1)
    yield _row("functions", report.functions, f"{report.classes:,} classes; {coverage:.0%} have a docstring")
    yield _row("compiler warnings", report.compiler_warnings, "odd things in files that can be parsed")
    yield ""
    yield f"  {'largest packages':36} {'files':>7} {'lines':>10} {'functions':>10} {'docstrings':>11}"
    for package in report.packages[:8]:
        name = f"{package.name} ({package.origin})"
        yield (
            f"  {name[:36]:36} {package.files:>7,} {package.lines:>10,}"
            f" {package.functions:>10,} {package.coverage:>11.0%}"
        )
    yield ""
    yield f"  dead letters: {report.letters:,}, read, reported, dropped; the page says what to do about each kind"
    for group in report.dead_letters:
        yield f"  {group.count:>5,}  {group.kind}"
        for letter in dict.fromkeys((group.letters[0], group.letters[-1])):
            line = f"         {letter.file}: {letter.problem}"
            yield line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _trouble(trouble: Trouble) -> Iterator[str]:
    if trouble.workers:
        under_way = sum(worker.under_way for worker in trouble.workers)
        yield _row("workers killed", len(trouble.workers), f"with SIGKILL, {under_way:,} jobs under way")
    for server in trouble.servers:
        yield _row("server killed", 1, server.server + server.in_short)
    if trouble:
        yield _row("begun again", trouble.begun_again, "jobs that were begun a second time; each counts once")


def _row(name: str, number: int, words: str) -> str:
    return f"  {name:18} {number:>11,}   {words}"


def _missing(report: Report) -> Iterator[str]:
    """Yield what is wrong, if anything is."""
    if report.accounted != report.submitted:
        yield f"NOT ACCOUNTED FOR: {report.submitted - report.accounted:,} files"
    if report.dead != report.letters:
        yield f"{report.dead:,} files are dead, but there are {report.letters:,} dead letters"
    if report.answered_from_the_first != report.sent_again:
        yield f"{report.sent_again - report.answered_from_the_first:,} duplicates did not get the first outcome"
