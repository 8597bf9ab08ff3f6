"""What does a store beside RabbitMQ cost a worker? Drains with and without one, in turns, on one private node.

    python benchmarks/rabbitmq_stores.py [--jobs 20000] [--rounds 5] [--only sqlite] [--json]

Each round drains one queue without a store, with each store and nothing kept, and with each store and results kept;
beside the drains it writes to each store, by the same client and with the same settings, records of the size of a
result. Ratios are medians over the rounds, each of figures of one round, and hold from machine to machine better than
the figures. Behind them stands how many records, in how many calls, a drain has written: a call is one transaction
in SQLite and PostgreSQL, and one round trip in Redis.

    none             no store, nothing kept
    STORE            nothing kept                        of: none, in the same round
    STORE cancel     nothing kept, but one job of another queue was cancelled lately, so jobs are looked up in batches
    STORE results    keep_result=3600                    of: raw, in the same round
    STORE raw        writes as the worker awaits them: one call after the other, as large as those of the drain
    STORE crowd      writes of four callers at once, 500 records each: the most that the store takes from one process
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import psycopg
import psycopg.sql

from taskcore import App
from taskcore.adapters import open_store
from taskcore.faults import PostgresServer, RabbitServer, RedisServer
from taskcore.store import ABSENT, Write

PAYLOAD = "x" * 60  #: with it an envelope has about 200 bytes
BATCH, CALLERS = 500, 4  #: of a crowd of writers
RESULT = b'{"state":"succeeded","result":"%s"}' % (b"x" * 60)  #: about what a stored outcome has
KINDS = ("", " cancel", " results")

Figures = dict[str, list["Drained"]]


class Drained(NamedTuple):
    """One figure: jobs or writes a second, and microseconds of this process's CPU for each."""

    rate: float
    cpu: float
    written: int = 0
    calls: int = 0


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["sqlite", "postgresql", "redis"], action="append")
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()
    figures = anyio.run(measure, options.jobs, options.rounds, options.only or ["sqlite", "postgresql", "redis"])
    show(figures, as_json=options.json)


async def measure(jobs: int, rounds: int, names: list[str]) -> Figures:
    """Run all rounds; every variant once in each, so that all of them see the same machine."""
    figures: Figures = {}
    async with RabbitServer() as node, opened_stores(names) as stores:
        url = f"{node.url}?min_queue_age=0.5"
        for number in range(rounds):
            figures.setdefault("none", []).append(await drain(url, "none", jobs))
            for name, store in stores.items():
                for kind in KINDS:
                    fresh = store(f"{number}{kind.strip()}")
                    if kind == " cancel":
                        await cancel_one(url, fresh)
                    kept = 3600.0 if kind == " results" else None
                    last = await drain(url, fresh, jobs, keep_result=kept)
                    figures.setdefault(name + kind, []).append(last)
                alike = max(last.written // max(last.calls, 1), 1)  # as large as the calls of the drain with results
                raw = await raw_writes(store(f"{number}raw"), jobs, batch=alike, callers=1)
                figures.setdefault(f"{name} raw", []).append(raw)
                crowd = await raw_writes(store(f"{number}crowd"), jobs, batch=BATCH, callers=CALLERS)
                figures.setdefault(f"{name} crowd", []).append(crowd)
    return figures


@asynccontextmanager
async def opened_stores(names: list[str]) -> AsyncIterator[dict[str, Any]]:
    """Start the servers; yield, by name, what makes the URL of a store without records."""
    async with AsyncExitStack() as exits:
        stores: dict[str, Any] = {}
        if "sqlite" in names:  # beside the program, not on a disk in memory
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
            stores["sqlite"] = lambda end: f"sqlite:///{folder}/{end}.db"
        if "postgresql" in names:
            postgres = await exits.enter_async_context(PostgresServer())
            stores["postgresql"] = lambda end: new_database(postgres.url, f"bench{end}")
        if "redis" in names:
            redis = await exits.enter_async_context(RedisServer())
            stores["redis"] = lambda end: f"{redis.url}?prefix=bench{end}"
        yield stores


def new_database(url: str, name: str) -> str:
    """Create a database; return its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        host, port, user = connection.info.host, connection.info.port, connection.info.user
    return f"postgresql://{user}@{host}:{port}/{name}"


def show(figures: Figures, *, as_json: bool) -> None:
    """Write each figure, and how much of the one beside it that is."""
    for name, values in figures.items():
        beside = f"{name.split()[0]} raw" if name.endswith("results") else "none"
        ratio = statistics.median(ours.rate / other.rate for ours, other in zip(values, figures[beside], strict=True))
        rate, cpu, written, calls = (statistics.median(column) for column in zip(*values, strict=True))
        row = {"name": name, "unit": "writes/s" if name.endswith(("raw", "crowd")) else "jobs/s", "rate": rate}
        row |= {"cpu": cpu, "ratio": ratio, "of": beside, "written": written, "calls": calls}
        shown = f"{name:20} {rate:>10,.0f} {row['unit']:9} {cpu:6.1f} µs CPU {ratio:6.0%} of {beside:15}"
        shown += f" {written:,.0f} records in {calls:,.0f} calls" if calls else ""
        print(json.dumps(row) if as_json else shown)


# ── what is measured ─────────────────────────────────────────────────────────────────────────────


async def drain(url: str, store: str, jobs: int, *, keep_result: float | None = None) -> Drained:
    """Fill a queue, then measure until a worker has settled all of it."""
    counted = Counted(open_store(store)) if store != "none" else None
    async with App(url, store=counted.store if counted else "none", keep_result=keep_result) as app:

        @app.task(name="bench.nothing", queue="bench", keep_result=keep_result)
        async def nothing(text: str) -> str:
            return text

        await nothing.enqueue(PAYLOAD)
        calls = [nothing.call(PAYLOAD) for _ in range(jobs)]
        for start in range(0, jobs, BATCH):
            await app.enqueue_many(calls[start : start + BATCH])
        async with app.running():
            while not app.counters["job.succeeded"]:  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.001)
            first, began, used = app.counters["job.succeeded"], time.perf_counter(), time.process_time()
            while app.counters["job.succeeded"] <= jobs:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.002)
            left = jobs - first
            rate, cpu = left / (time.perf_counter() - began), (time.process_time() - used) / left * 1e6
            return Drained(rate, cpu, *((counted.written, counted.calls) if counted else ()))


class Counted:
    """Counts what is written to a store, and in how many calls."""

    def __init__(self, store: Any) -> None:
        self.store, self.written, self.calls = store, 0, 0
        self._put_many = store.put_many
        store.put_many = self.put_many

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Any]:
        """Write, and count."""
        self.calls += 1
        self.written += len(writes)
        answers: Sequence[Any] = await self._put_many(writes)
        return answers


async def cancel_one(url: str, store: str) -> None:
    """Cancel a job of another queue."""
    async with App(url, store=store, keep_result=None) as app:

        @app.task(name="bench.other", queue="bench-other", keep_result=None)
        async def other() -> None: ...

        await (await other.enqueue()).cancel()
        await app.purge("bench-other")


async def raw_writes(url: str, records: int, *, batch: int, callers: int) -> Drained:
    """Write records that are not there, in batches, from some callers at once."""
    async with open_store(url) as store:
        batches = [
            [
                Write(key=f"job/{start + number:032}", value=RESULT, expect=ABSENT, keep=3600.0)
                for number in range(min(batch, records - start))
            ]
            for start in range(0, records, batch)
        ]
        waiting = iter(batches)

        async def write() -> None:
            for portion in waiting:
                await store.put_many(portion)

        began, used = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as group:
            for _ in range(callers):
                group.start_soon(write)
        return Drained(records / (time.perf_counter() - began), (time.process_time() - used) / records * 1e6)


if __name__ == "__main__":
    main()
