"""One run: find the files, index them, write the report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from examples.code_index.broker import Private
from examples.code_index.figures import make_report
from examples.code_index.index import Harvest, index_files, leave_nothing
from examples.code_index.journal import begun_again
from examples.code_index.progress import Progress
from examples.code_index.report import summary, write_report
from examples.code_index.sources import Source, find_sources
from examples.code_index.tasks import app
from examples.code_index.trouble import Plan, Trouble, make_trouble
from examples.code_index.workers import GRACE, Workers

__all__ = ["run"]


async def run(options: argparse.Namespace, broker: Private | None) -> int:
    """Run, and return the exit code.

    :param broker: the private one, if there is one; of it, a server may be killed.
    """
    sources = find_sources(options.out, options.limit)
    if not options.quiet:
        print(f"{len(sources):,} Python files to index. {_where(options.workers)}")
    progress = Progress(len(sources), quiet=options.quiet)
    into = options.out / f"catalogue-{time.time_ns():x}.sqlite"  # new for each run, so its name identifies the run
    workers = Workers(options.workers, options.out, impatient=options.kill > 0)
    plan = Plan(kill=options.kill, broker=broker if options.kill_server else None, for_good=options.for_good)
    trouble = Trouble()
    try:
        async with app:
            harvest = await _index(sources, into, progress, workers, trouble, plan)
        into.replace(options.out / "catalogue.sqlite")
    finally:
        into.unlink(missing_ok=True)
    trouble.begun_again = begun_again(workers.journals())
    report = make_report(harvest, progress.timeline, app.settings, workers=options.workers, trouble=trouble)
    write_report(report, options.out)
    print(summary(report, options.out, short=options.quiet))
    return 0 if report.is_complete else 1


async def _index(
    sources: Sequence[Source], into: Path, progress: Progress, workers: Workers, trouble: Trouble, plan: Plan
) -> Harvest:
    try:
        async with workers.working(), progress.shown(), make_trouble(plan, trouble, progress, workers):
            return await index_files(sources, into, progress)
    except BaseException:  # Ctrl-C too; the workers have released their jobs by now
        with anyio.move_on_after(GRACE, shield=True):
            await leave_nothing(into.stem)
        raise


def _where(workers: int) -> str:
    return "The worker runs in this process." if workers == 0 else f"{workers} worker processes."
