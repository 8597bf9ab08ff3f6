"""The tasks of all scenarios: those that do nothing, and those that fail, sleep, or sign a ledger."""

from __future__ import annotations

from typing import Any

import anyio

from taskcore.app import App
from taskcore.bench.ledger import JobLedger
from taskcore.bench.tally import Tally, number_of
from taskcore.policy import Retry
from taskcore.worker.context import current

__all__ = ["FAILURES_PER_JOB", "make_app"]

FAILURES_PER_JOB = 2  #: how often each job of the retry storm fails
RETRY_SOON = Retry(attempts=FAILURES_PER_JOB + 1, base=0.01, factor=1.0, jitter="none")
KEEP_SECONDS = 120.0  #: seconds for which results and keys of a measurement are kept


def make_app(
    url: str,
    store: str | None,
    queue: str,
    *,
    tally: Tally | None = None,
    ledger: JobLedger | None = None,
    **settings: Any,
) -> App:
    """Make an app with these tasks on this queue. Its settings are the defaults, but for those that are given."""
    app = App(url, store=store, **settings)
    mark = (tally or Tally()).mark
    keep = KEEP_SECONDS if app.components.store is not None else None

    @app.task(name="bench.noop", queue=queue, keep_result=None)
    async def noop(data: str) -> None:
        mark(data)

    @app.task(name="bench.answer", queue=queue, keep_result=keep)
    async def answer(data: str) -> int:
        mark(data)
        return len(data)

    @app.task(name="bench.keyed", queue=queue, keep_result=None, key_window=KEEP_SECONDS)
    async def keyed(data: str) -> None:
        mark(data)

    @app.task(name="bench.failing", queue=queue, keep_result=None, retry=RETRY_SOON)
    async def failing(data: str) -> None:
        if current().attempt <= FAILURES_PER_JOB:
            raise ConnectionError("a failure that passes")
        mark(data)

    @app.task(name="bench.signing", queue=queue, keep_result=None)
    async def signing(data: str, seconds: float) -> None:
        if ledger is None:
            raise RuntimeError("this worker has no ledger")
        number = number_of(data)
        ledger.write("start", number)
        await anyio.sleep(seconds)
        ledger.write("end", number)
        mark(data)

    return app
