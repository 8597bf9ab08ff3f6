"""One worker as a process of its own. Tests start several of them, and kill them.

python -m tests.workflows.program URL STORE LEDGER [POINT VISIT]
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Any

import anyio

from taskcore import App, Retry, current
from taskcore.records.names import outcome_name
from taskcore.testing.crash_points import exit_at

__all__ = ["QUEUE", "make_app"]

QUEUE = "flow"


def make_app(url: str, store: str, ledger: str) -> App:
    """Make the app of a worker, and of the sender."""
    app = App(url, store=store or None, lease=3.0, concurrency=20, retry=Retry(attempts=1))

    def note(*what: object) -> None:
        """Write a line into the ledger, in one write."""
        file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{' '.join(map(str, what))}\n".encode())
        os.close(file)

    def task(function: Any) -> Any:
        return app.task(name=function.__name__, queue=QUEUE, crashes=50)(function)

    @task
    async def add(a: int, b: int = 1) -> int:
        """Add."""
        note("start", current().envelope.id)
        return a + b

    @task
    async def total(numbers: list[int]) -> int:
        """Collect."""
        job = current().envelope.id
        found = app.components.store
        assert found is not None
        note("late" if await found.get(outcome_name(job)) else "total", job)
        return sum(numbers)

    @task
    async def ordered(numbers: list[int]) -> bool:
        """Collect, and tell whether each result is at its place."""
        note("ordered", current().envelope.id, current().fence)
        return numbers == list(range(1, len(numbers) + 1))

    @task
    async def numbers(n: int) -> list[int]:
        """Make a list."""
        return list(range(n))

    @task
    async def fail(a: int) -> int:
        """Fail."""
        raise ValueError("as asked")

    @task
    async def is_even(a: int) -> bool:
        """Judge."""
        return a % 2 == 0

    @app.task(name="charge", queue=QUEUE, crashes=50, key=("chain", "place"))
    async def charge(place: int, chain: int) -> int:
        """Have an effect that is recorded once."""
        note("effect", chain, place, current().fence)
        return place + 1

    return app


async def main() -> None:
    """Run until killed."""
    url, store, ledger, *point = sys.argv[1:]
    with exit_at(point[0], visit=int(point[1])) if point else nullcontext():
        async with make_app(url, store, ledger).running():
            print("ready", flush=True)  # noqa: T201
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
