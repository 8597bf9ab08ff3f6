"""python -m benchmarks.soak URL --minutes N [--store URL] [--lease S] [--json] [--seed S] [--no-server-kill] [--keep].

Exit codes: 0 clean; 1 a promise was broken, with the evidence; 2 usage, or a server that is not on this machine.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys

import anyio

from benchmarks.soak.addresses import Unusable, broker_endpoint, store_endpoint
from benchmarks.soak.kinds import LEASE
from benchmarks.soak.progress import Progress
from benchmarks.soak.report import as_json, as_text
from benchmarks.soak.run import any_seed, soak
from taskcore.errors import TaskcoreError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[2])
    parser.add_argument("url", help="a broker's URL, or redis, valkey, nats, rabbitmq: a server of its own; redis:8.0")
    parser.add_argument("--store", help="a store's URL, or sqlite, postgresql, redis, nats")
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long there are faults (default: 10)")
    parser.add_argument("--seed", type=int, help="repeats the faults of an earlier run")
    parser.add_argument(
        "--lease", default=f"{LEASE:g}", help=f"seconds, or default: the library's (default: {LEASE:g})"
    )
    parser.add_argument("--json", action="store_true", help="the report for programs")
    parser.add_argument("--no-server-kill", action="store_true", help="leave the servers alone")
    parser.add_argument("--keep", action="store_true", help="keep the ledgers and logs of a clean run, too")
    told = parser.parse_args(arguments)
    if not 0.1 <= told.minutes <= 10_000:
        parser.error(f"--minutes {told.minutes:g}: give 0.1 to 10,000")
    logging.basicConfig(level=logging.CRITICAL)
    try:
        lease = None if told.lease == "default" else float(told.lease)
    except ValueError:
        parser.error(f'--lease {told.lease}: give seconds, or "default"')
    try:
        store = None if told.store is None else store_endpoint(told.store)
        broker = broker_endpoint(told.url, has_store=told.store is not None)
    except (Unusable, TaskcoreError) as error:
        parser.error(str(error))
    progress = Progress()
    seed = any_seed() if told.seed is None else told.seed
    progress.show(f"{told.url}, {told.minutes:g} minutes, seed {seed}", always=True)

    async def run() -> int:
        report = await soak(
            broker,
            store,
            seconds=told.minutes * 60,
            seed=seed,
            lease=lease,
            server_kill=not told.no_server_kill,
            show=progress.show,
        )
        progress.close()
        if not report.broken and not told.keep:
            shutil.rmtree(report.folder, ignore_errors=True)
        print(as_json(report) if told.json else as_text(report))
        return 1 if report.broken else 0

    return anyio.run(run)


if __name__ == "__main__":
    sys.exit(main())
