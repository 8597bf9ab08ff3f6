"""The command line: options, their checks, and the exit code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from examples.code_index.broker import CLUSTERS, SERVERS, STORES, broker
from examples.code_index.errors import WorkerEnded
from taskcore import TaskcoreError
from taskcore.config import load

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0 if every file is accounted for, 1 if not, 2 if it could not run, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _complete(options, parser)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.code_index", description="Index all Python code here.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "code_index", metavar="DIR", help="output folder")
    parser.add_argument("--limit", type=_count, metavar="N", help="index so many files only")
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="worker processes; 0 (default without --server): in this process"
    )
    parser.add_argument(
        "--store",
        metavar=f"URL|{'|'.join(STORES)}",
        help="where results and keys are kept, if not in the broker; a name: in a private server for this run",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument("--kill", type=_count, default=0, metavar="N", help="kill so many workers in the middle")
    trouble.add_argument("--server", choices=SERVERS, help="start a private server, or three, for this run")
    trouble.add_argument(
        "--kill-server", action="store_true", help="kill that server, or one of the three, and start it again"
    )
    trouble.add_argument("--for-good", action="store_true", help="do not start it again: the others go on")
    return parser


def _complete(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fill in defaults, and refuse options that contradict each other."""
    if options.workers is None:
        options.workers = options.kill + 1 if options.kill else 2 if options.server else 0
    if options.kill and options.kill >= options.workers:
        parser.error(
            f"--kill {options.kill} of {options.workers} worker processes: at least one has to survive to do the work;"
            f" --workers {options.kill + 1} or more"
        )
    if options.kill_server and not options.server:
        parser.error(f"--kill-server kills a server that this program has started: --server {'|'.join(SERVERS)}")
    if options.for_good and (options.server not in CLUSTERS or not options.kill_server):
        parser.error(f"--for-good takes a server that others replace: --server {'|'.join(CLUSTERS)} --kill-server")
    if options.workers and not options.server and load().settings.url.startswith("memory:"):
        parser.error(
            "--workers and --kill need a broker that other processes can reach, and memory:// ends at this process;"
            " name one in TASKCORE_URL, or let one be started: --server redis"
        )
    options.out = options.out.resolve()  # workers may run in another folder
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=options.out / "run.log", filemode="w", level=logging.WARNING)


async def _run(options: argparse.Namespace) -> int:
    async with broker(options.server, options.store, options.out) as private:
        # Not earlier: importing the tasks creates the app, which needs to know the broker.
        from examples.code_index.run import run  # noqa: PLC0415

        return await run(options, private)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _first(error: BaseException) -> BaseException:
    """Return the first error in a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
