# ruff: noqa: T201 - the test reads what it prints
"""A child of the tests: a worker whose task pays, in one transaction with the outcome of its key.

    python payer.py <store url> <folder> <orders>       sends the orders that were not sent, works until all are settled

It passes crash points of its own: pay.begun, pay.paid, pay.completed, pay.committed. There is no unique constraint: an
effect that is done twice is there twice.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from pathlib import Path

import anyio

from taskcore import App, current
from taskcore.faults.crash import install_from_environment
from taskcore.stores.sql import complete_in, complete_in_async
from taskcore.toolkit.failpoints import failpoint
from tests.stores.sql.file_broker import FileBroker

url, folder, orders = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
CARELESS = "CARELESS" in os.environ  # pays without telling the key: for the proof that the test would notice
app = App(FileBroker(folder), store=url, lease=5.0)

if url.startswith("sqlite"):

    @app.task(name="pay", key="order", crashes=1_000)
    def pay(order: int) -> str:
        """Pay with SQLite, in a thread."""
        receipt = secrets.token_hex(8)
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                failpoint("pay.begun")
                connection.execute("INSERT INTO payments VALUES (?, ?)", (order, receipt))
                failpoint("pay.paid")
                if not CARELESS:
                    complete_in(connection, current().completion(receipt))
                failpoint("pay.completed")
        finally:
            connection.close()
        failpoint("pay.committed")
        return receipt

else:
    import psycopg

    @app.task(name="pay", key="order", crashes=1_000)
    async def pay(order: int) -> str:
        """Pay with PostgreSQL, in the loop."""
        receipt = secrets.token_hex(8)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            failpoint("pay.begun")
            await connection.execute("INSERT INTO payments VALUES (%s, %s)", (order, receipt))
            failpoint("pay.paid")
            if not CARELESS:
                await complete_in_async(connection, current().completion(receipt))
            failpoint("pay.completed")
        failpoint("pay.committed")
        return receipt


async def main() -> None:
    """Send, work, print what came of it."""
    sent = (folder / "jobs").read_text().count("\n") if (folder / "jobs").exists() else 0
    async with app.running(concurrency=4):
        print("ready", flush=True)
        for order in range(sent, orders):
            await pay.enqueue(order)
        await app.drain(timeout=60)
        for order in range(orders):  # known keys: each answers with the first job of its order
            job = await pay.enqueue(order)
            print("result", order, await job.result(timeout=10), flush=True)


install_from_environment()
anyio.run(main)
