"""The report of a run: one HTML file that needs no internet, Markdown for the repository.

page.py   the HTML        charts.py   which plots    svg.py      plots
markdown.py   the Markdown    slower.py   where others are better
aims.py   what we aim at, and whether it holds    reasons.py   why not
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.compare.report.markdown import markdown
from benchmarks.compare.report.page import page
from benchmarks.compare.run import Run

__all__ = ["write_report"]


def write_report(run: Run, folder: Path, docs: Path | None) -> None:
    """Write ``report.html`` and ``REPORT.md`` into the folder; and the page of the documentation, if it is wanted."""
    (folder / "report.html").write_text(page(run))
    (folder / "REPORT.md").write_text(markdown(run))
    if docs is not None:
        docs.write_text(markdown(run))
