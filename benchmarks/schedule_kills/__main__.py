"""python -m benchmarks.schedule_kills URL [--store URL] [--minutes N] [--seed S] [--json] [--keep].

Two workers of the example application, with its hourly and its nightly schedule and nine more, are killed in turns
with SIGKILL. Exit codes: 0 each instant of the preview is one job; 1 an instant is missing, doubled or not in the
preview; 2 usage, or a server that is not on this machine.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import anyio

from benchmarks.schedule_kills.judge import Verdict
from benchmarks.schedule_kills.run import run
from benchmarks.soak.addresses import Unusable, broker_endpoint, store_endpoint
from benchmarks.soak.progress import Progress
from taskcore.errors import TaskcoreError

__all__ = ["main"]

SHOWN = 10  #: instants of one kind in the report


def main(arguments: list[str] | None = None) -> int:
    """Run, print, return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.schedule_kills", description=__doc__)
    parser.add_argument("url", help="a broker's URL, or redis, valkey, nats, rabbitmq: a server of its own")
    parser.add_argument("--store", help="a store's URL, or sqlite, postgresql, redis, nats")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long workers are killed (default: 10)")
    parser.add_argument("--seed", type=int, help="repeats the pauses between the kills of an earlier run")
    parser.add_argument("--json", action="store_true", help="the verdict for programs")
    parser.add_argument("--keep", action="store_true", help="keep the ledger and the logs of a clean run, too")
    told = parser.parse_args(arguments)
    if not 0.1 <= told.minutes <= 10_000:
        parser.error(f"--minutes {told.minutes:g}: give 0.1 to 10,000")
    try:
        store = None if told.store is None else store_endpoint(told.store)
        broker = broker_endpoint(told.url, has_store=told.store is not None)
    except (Unusable, TaskcoreError) as error:
        parser.error(str(error))
    seed = random.randrange(1_000_000) if told.seed is None else told.seed
    folder, progress = Path(tempfile.mkdtemp(prefix="taskcore-schedules-")), Progress()
    name = broker.name if store is None else f"{broker.name}, records in {store.name}"
    progress.show(f"{name}, {told.minutes:g} minutes, seed {seed}", always=True)

    async def play() -> Verdict:
        return await run(broker, store, folder, seconds=told.minutes * 60, seed=seed, show=progress.show)

    verdict = anyio.run(play)
    progress.close()
    print(json.dumps(verdict._asdict()) if told.json else as_text(verdict))
    if verdict.is_clean and not told.keep:
        shutil.rmtree(folder)
    elif not told.json:
        print(f"ledger and logs: {folder}")
    return 0 if verdict.is_clean else 1


def as_text(verdict: Verdict) -> str:
    """Write the verdict for people."""
    late = f"p50 {verdict.percentile(0.5) * 1000:.0f} ms, p99 {verdict.percentile(0.99):.2f} s"
    lines = [
        f"instants   {verdict.expected:,} in the preview",
        f"missing    {_named(verdict.missing)}",
        f"doubled    {_named(verdict.doubled)}",
        f"strange    {_named(verdict.strange)} that the preview did not have",
        f"passed     {verdict.passed} that the library counts as missed, overlapped or lost",
        f"again      {verdict.again} jobs began again because their worker was killed",
        f"late       {late}, the latest {max(verdict.late, default=0.0):.2f} s",
    ]
    return "\n".join([*lines, "clean" if verdict.is_clean else "NOT clean"])


def _named(instants: list[tuple[str, int]]) -> str:
    shown = [f"{schedule} {datetime.fromtimestamp(at / 1000, UTC):%H:%M:%S}" for schedule, at in instants[:SHOWN]]
    return ": ".join(part for part in (str(len(instants)), ", ".join(shown)) if part)


if __name__ == "__main__":
    sys.exit(main())
