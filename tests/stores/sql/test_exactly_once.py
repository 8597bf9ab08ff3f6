"""A worker that pays in one transaction with the outcome of its key dies anywhere: each order is paid exactly once."""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from taskcore.faults import WorkerProcess
from taskcore.testing.crash_points import CRASHED

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

PAYER = Path(__file__).parent / "payer.py"
OWN = ["pay.begun", "pay.paid", "pay.completed", "pay.committed"]
CORE = [
    "enqueue.claimed",
    "enqueue.published",
    "hold.taken",
    "run.returned",
    "settle.committed",
    "settle.ended",
    "settle.settled",
]


class Till:
    """The payments in the database, beside the records."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Any:
        self.run("DROP TABLE IF EXISTS payments")
        self.run("CREATE TABLE payments (number INTEGER, receipt TEXT)")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.run("DROP TABLE payments")
        for table in ("taskcore_records", "taskcore_schema"):
            self.run(f"DROP TABLE {table}")

    def run(self, query: str) -> list[Any]:
        """Run a query and return its rows, if it has any."""
        if self._url.startswith("sqlite"):
            connection: Any = sqlite3.connect(self._url.removeprefix("sqlite:///"), isolation_level=None)
        else:
            connection = psycopg.connect(self._url, autocommit=True)
        try:
            cursor = connection.execute(query)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def payments(self) -> dict[int, str]:
        """Return the receipt of each paid order; no order may have been paid twice."""
        rows = self.run("SELECT number, receipt FROM payments")
        assert len({number for number, _ in rows}) == len(rows), f"paid twice: {rows}"
        return dict(rows)


def results(worker: WorkerProcess) -> dict[int, str]:
    """Return the results that the callers received."""
    return {int(order): receipt for order, receipt in re.findall(r"result (\d+) (\w+)", worker.output(10_000))}


@pytest.mark.parametrize("point", OWN + CORE)
async def test_dead_at(point: str, url: str, tmp_path: Path):
    """F02–F03: whichever process dies at this point, the order is paid once; the caller gets the receipt of that."""
    async with Till(url) as till:
        async with WorkerProcess(PAYER, url, tmp_path, 1, folder=tmp_path, who="first", crash_at=point) as worker:
            assert await worker.wait(30) == CRASHED, worker.output()
        paid = till.payments()
        committed = point in ("pay.committed", "run.returned") or point.startswith("settle")
        assert len(paid) == committed
        async with WorkerProcess(PAYER, url, tmp_path, 1, folder=tmp_path, who="second") as worker:
            assert await worker.wait(30) == 0, worker.output()
            assert results(worker) == till.payments()
        if paid:
            assert till.payments() == paid


async def test_the_test_would_notice(url: str, tmp_path: Path):
    """Without complete_in, a worker that dies after its payment leads to a second one."""
    careless = {"CARELESS": "1"}
    async with Till(url) as till:
        for who, crash in (("first", "pay.committed"), ("second", None)):
            async with WorkerProcess(
                PAYER, url, tmp_path, 1, folder=tmp_path, who=who, crash_at=crash, environment=careless
            ) as worker:
                await worker.wait(30)
        with pytest.raises(AssertionError, match="paid twice"):
            till.payments()


async def test_killed_at_any_moment(url: str, tmp_path: Path):
    """F01: through SIGKILL at random moments every order is paid once, and its caller gets the receipt."""
    orders, dice = 40, random.Random(7)
    async with Till(url) as till:
        for kill in range(8):
            async with WorkerProcess(PAYER, url, tmp_path, orders, folder=tmp_path, who=f"w{kill}") as worker:
                await worker.says("ready")
                await anyio.sleep(dice.uniform(0.0, 0.15))
                worker.kill()
            till.payments()
        async with WorkerProcess(PAYER, url, tmp_path, orders, folder=tmp_path, who="last") as worker:
            assert await worker.wait(60) == 0, worker.output()
            assert results(worker) == till.payments()
        assert len(till.payments()) == orders
