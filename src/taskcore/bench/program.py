"""One worker process of a measurement. Its orders are a :class:`Spec` as JSON, in an environment variable."""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import anyio
import anyio.abc
import msgspec

from taskcore.bench.jobs import make_app
from taskcore.bench.ledger import JobLedger
from taskcore.bench.tally import POLL_SECONDS, Tally

__all__ = ["ORDERS", "Spec", "main"]

ORDERS = "BENCH_WORKER_ORDERS"  #: the name of that variable


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The orders of a worker process.

    :param report: where its tally goes; its count goes beside it.
    :param counts: whether it looks at its count a hundred times a second, which an idle worker would be measured by.
    :param ledger: where its jobs sign, if they do.
    """

    url: str
    store: str | None
    queue: str
    report: str
    counts: bool = True
    ledger: str | None = None
    timed: bool = False
    lease: float | None = None


def main() -> None:
    """Work until told to stop; then write the report."""
    spec = msgspec.json.decode(os.environ.pop(ORDERS), type=Spec)
    logging.basicConfig(level=logging.WARNING)
    anyio.run(work, spec, backend_options={"use_uvloop": True} if find_spec("uvloop") else {})


async def work(spec: Spec) -> None:
    """Run one worker."""
    tally = Tally(timed=spec.timed)
    ledger = JobLedger(spec.ledger) if spec.ledger else None
    app = make_app(spec.url, spec.store, spec.queue, tally=tally, ledger=ledger, lease=spec.lease)
    async with app, anyio.create_task_group() as group:
        if spec.counts:
            Thread(target=_pulse, args=(tally, Path(spec.report).with_suffix(".count")), daemon=True).start()

        async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await app.run_worker(grace=2.0, task_status=task_status)
            group.cancel_scope.cancel()

        await group.start(serve)
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
    tally.write(spec.report)


def _pulse(tally: Tally, path: Path) -> None:
    """Tell the parent how many; when nothing changes, nothing is written. A thread, because a disk takes its time."""
    written = -1
    while True:
        if len(tally.numbers) != written:
            written = len(tally.numbers)
            tally.pulse(path)
        time.sleep(POLL_SECONDS)
