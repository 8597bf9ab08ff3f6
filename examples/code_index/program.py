"""The command line: options in, worker up, report out."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from examples.code_index.figures import make_report
from examples.code_index.index import Harvest, index_files, leave_nothing
from examples.code_index.progress import Progress
from examples.code_index.report import summary, write_report
from examples.code_index.sources import Source, find_sources
from examples.code_index.tasks import FILES, PARSE, app
from taskcore import TaskcoreError

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]  #: where `examples` can be imported from
APP = "examples.code_index.tasks:app"
QUEUES = (PARSE, FILES)  #: most urgent first: finish what is begun, then begin something new
GRACE = 10.0  #: seconds that a worker has to finish what it runs


class WorkerEnded(Exception):
    """A worker process ended although nobody told it to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit code: 0 every file is accounted for, 1 not, 2 it could not run, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.code_index", description="Index all Python code here.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "code_index", metavar="DIR", help="output folder")
    parser.add_argument("--limit", type=_count, metavar="N", help="index so many files only")
    parser.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="worker processes; 0 (default): work in this process"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    options = parser.parse_args(arguments)
    if options.workers and app.settings.url.startswith("memory:"):
        parser.error(
            "--workers needs a broker that other processes can reach, and memory:// ends at this process;"
            " name one in TASKCORE_URL, or leave --workers out"
        )
    options.out = options.out.resolve()  # workers may be in another folder
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=options.out / "run.log", filemode="w", level=logging.WARNING)
    try:
        return anyio.run(_run, options)
    except KeyboardInterrupt:
        print("stopped; what had not started is taken back")
        return 130
    except (TaskcoreError, WorkerEnded, BaseExceptionGroup) as error:
        reason = _first(error)
        if not isinstance(reason, (TaskcoreError, WorkerEnded)):
            raise
        print(reason, file=sys.stderr)
        return 2


async def _run(options: argparse.Namespace) -> int:
    sources = find_sources(options.out, options.limit)
    if not options.quiet:
        print(f"{len(sources):,} Python files to index. {_where(options.workers)}")
    progress = Progress(len(sources), quiet=options.quiet)
    into = options.out / f"catalogue-{time.time_ns():x}.sqlite"  # a new one each time, so its name names the run
    try:
        async with app:
            harvest = await _index(sources, into, progress, options)
        into.replace(options.out / "catalogue.sqlite")
    finally:
        into.unlink(missing_ok=True)
    report = make_report(harvest, progress.timeline, app.settings, workers=options.workers)
    write_report(report, options.out)
    print(summary(report, options.out, short=options.quiet))
    return 0 if report.is_complete else 1


async def _index(sources: Sequence[Source], into: Path, progress: Progress, options: argparse.Namespace) -> Harvest:
    try:
        async with _working(options.workers, options.out), progress.shown():
            return await index_files(sources, into, progress)
    except BaseException:  # Ctrl-C too; by now the workers have given back what they had
        with anyio.move_on_after(GRACE, shield=True):
            await leave_nothing(into.stem)
        raise


@asynccontextmanager
async def _working(workers: int, out: Path) -> AsyncIterator[None]:
    """Somebody works: this process, or some others. For the rest of the program there is no difference."""
    if workers == 0:
        async with app.running(queues=QUEUES, grace=GRACE):
            yield
    else:
        async with _worker_processes(workers, out):
            yield


@asynccontextmanager
async def _worker_processes(number: int, out: Path) -> AsyncIterator[None]:
    """Some ``taskcore worker``, until the end."""
    command = [
        sys.executable,
        "-m",
        "taskcore",
        "worker",
        APP,
        "--app-dir",
        str(ROOT),
        "--log-level",
        "warning",
        "--queues",
        ",".join(QUEUES),
    ]
    async with anyio.create_task_group() as group:
        processes: list[anyio.abc.Process] = []
        try:
            for _ in range(number):
                with (out / f"worker-{len(processes) + 1}.log").open("w") as log:
                    # In a session of its own, because Ctrl-C is meant for this program, which then tells its workers.
                    process = await anyio.open_process(command, stdout=log, stderr=log, start_new_session=True)
                processes.append(process)
                group.start_soon(_must_go_on, process, log.name)
            yield
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for process in processes:
                    await _end(process)


async def _must_go_on(process: anyio.abc.Process, log: str) -> None:
    code = await process.wait()
    raise WorkerEnded(f"a worker process ended with code {code}; it says why in {log}")


async def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(GRACE + 5.0):
            await process.wait()
            return
        process.kill()


def _where(workers: int) -> str:
    return "The worker runs in this process." if workers == 0 else f"{workers} worker processes."


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _first(error: BaseException) -> BaseException:
    """The first error in a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
