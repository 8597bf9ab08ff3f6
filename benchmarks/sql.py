"""How fast the SQL stores are, and how far they are from the bare client library.

    python benchmarks/sql.py [--records 20000] [--rounds 3] [--json] [--only sqlite]

Each figure of a store stands beside the same work done by a plain loop over sqlite3 or psycopg, in the same run, on the
same disk and server: compare the ratios. PostgreSQL is a private server with its usual settings; without its program
its figures are left out.

    put_many             batches of 100, one after the other      (plain: executemany in a transaction, upsert)
    put, 100 at a time   single puts from 100 callers             (plain: one caller, one transaction each)
    cas p50, p99         one compare-and-set at a time            (plain: UPDATE … WHERE version = …, one at a time)
    get p50              one read at a time                       (plain: SELECT, one at a time)
    watch p50, p99       from before a put in another store until a watch has it
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import psycopg

from taskcore.adapters import open_store
from taskcore.faults import PostgresServer, ServerMissing
from taskcore.store import ANY, Conflict, Store, Write

VALUE = b"x" * 200
BATCH, CALLERS, SINGLES = 100, 100, 300

Figures = dict[str, list[float]]

MAKE = "CREATE TABLE IF NOT EXISTS plain (key TEXT PRIMARY KEY, value {bytes}, version BIGINT, ends REAL)"
UPSERT = """INSERT INTO plain VALUES ({0}, {0}, 1, {0}) ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, version = plain.version + 1, ends = excluded.ends"""
CAS = "UPDATE plain SET value = {0}, version = version + 1 WHERE key = {0} AND version = {0}"
GET = "SELECT value, version FROM plain WHERE key = {0}"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()
    if options.only != "postgresql":
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # beside the program, not on a disk in memory
            for name in ("full", "normal"):
                url = f"sqlite:///{folder}/{name}.db?synchronous={name}"
                plain = lambda name=name, folder=folder: plain_sqlite(Path(folder) / f"{name}.db", name)  # noqa: E731
                report(f"sqlite, synchronous={name}", anyio.run(measure, url, plain, options), as_json=options.json)
    if options.only != "sqlite":
        anyio.run(postgres, options)


async def postgres(options: Any) -> None:
    """Measure on a server of our own."""
    try:
        server = PostgresServer()
    except ServerMissing as missing:
        print(missing)
        return
    async with server:

        def plain() -> Any:
            return psycopg.connect(server.url, autocommit=True)

        report(f"postgresql {server.version}", await measure(server.url, plain, options), as_json=options.json)


def plain_sqlite(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open a connection as the store has it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


async def measure(url: str, plain: Callable[[], Any], options: Any) -> Figures:
    """Measure all figures, several rounds each, store and plain loop by turns."""
    figures: Figures = {}
    async with AsyncExitStack() as exits:
        store, other = [await exits.enter_async_context(open_store(url)) for _ in range(2)]
        for number in range(options.rounds):
            note(figures, "put_many", await many(store, options.records, f"m{number}"))
            note(figures, "put, 100 at a time", await crowd(store, f"c{number}"))
            waits = await swaps(store, f"s{number}")
            note(figures, "cas p50", percentile(waits, 50))
            note(figures, "cas p99", percentile(waits, 99))
            note(figures, "get p50", percentile(await reads(store, f"s{number}"), 50))
            waits = await watches(store, other, f"w{number}")
            note(figures, "watch p50", percentile(waits, 50))
            note(figures, "watch p99", percentile(waits, 99))
            for name, value in (await anyio.to_thread.run_sync(bare, plain, options.records, number)).items():
                note(figures, f"{name} (plain)", value)
    return figures


async def many(store: Store, records: int, mark: str) -> float:
    """Return the records per second, in batches."""
    start = time.perf_counter()
    for first in range(0, records, BATCH):
        await store.put_many([Write(key=f"{mark}/{first + n}", value=VALUE, keep=600.0) for n in range(BATCH)])
    return records / (time.perf_counter() - start)


async def crowd(store: Store, mark: str) -> float:
    """Return the records per second, each from a caller of its own."""
    each = 30

    async def caller(name: int) -> None:
        for number in range(each):
            await store.put(f"{mark}/{name}/{number}", VALUE, expect=ANY, keep=600.0)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for name in range(CALLERS):
            group.start_soon(caller, name)
    return CALLERS * each / (time.perf_counter() - start)


async def swaps(store: Store, mark: str) -> list[float]:
    """Return the milliseconds for each compare-and-set."""
    waits = []
    version = await store.put(mark, VALUE, expect=ANY, keep=600.0)
    for _ in range(SINGLES):
        start = time.perf_counter()
        assert not isinstance(version, Conflict)
        version = await store.put(mark, VALUE, expect=version, keep=600.0)
        waits.append((time.perf_counter() - start) * 1e3)
    return waits


async def reads(store: Store, mark: str) -> list[float]:
    """Return the milliseconds for each read."""
    waits = []
    for _ in range(SINGLES):
        start = time.perf_counter()
        await store.get(mark)
        waits.append((time.perf_counter() - start) * 1e3)
    return waits


async def watches(store: Store, other: Store, mark: str) -> list[float]:
    """Return the milliseconds from before a write in one store until a watch of another one has it."""
    waits = []
    async with store.watch(mark) as records:
        for number in range(60):
            await anyio.sleep(0.011)  # at any time between two looks of a store that has to look
            start = time.perf_counter()
            await other.put(mark, b"%d" % number, expect=ANY, keep=600.0)
            await anext(records)
            waits.append((time.perf_counter() - start) * 1e3)
    return waits


def bare(connect: Callable[[], Any], records: int, number: int) -> dict[str, float]:
    """Measure the same with the client library alone."""
    connection = connect()
    is_sqlite = isinstance(connection, sqlite3.Connection)
    mark = "?" if is_sqlite else "%s"
    connection.execute(MAKE.format(bytes="BLOB" if is_sqlite else "BYTEA"))
    cursor, upsert, cas, get = connection.cursor(), UPSERT.format(mark), CAS.format(mark), GET.format(mark)
    figures = {}
    start = time.perf_counter()
    for first in range(0, records, BATCH):
        cursor.execute("BEGIN")
        cursor.executemany(upsert, [(f"m{number}/{first + n}", VALUE, 600.0) for n in range(BATCH)])
        cursor.execute("COMMIT")
    figures["put_many"] = records / (time.perf_counter() - start)
    start = time.perf_counter()
    for single in range(SINGLES):
        cursor.execute(upsert, (f"c{number}/{single}", VALUE, 600.0))
    figures["put, 100 at a time"] = SINGLES / (time.perf_counter() - start)
    cursor.execute(upsert, (f"s{number}", VALUE, 600.0))
    waits, read = [], []
    for single in range(SINGLES):
        start = time.perf_counter()
        cursor.execute(cas, (VALUE, f"s{number}", single + 1))
        waits.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        cursor.execute(get, (f"s{number}",)).fetchone()
        read.append((time.perf_counter() - start) * 1e3)
    figures |= {"cas p50": percentile(waits, 50), "cas p99": percentile(waits, 99), "get p50": percentile(read, 50)}
    connection.close()
    return figures


# ── printing ─────────────────────────────────────────────────────────────────────────────────────


def note(figures: Figures, name: str, value: float) -> None:
    """Add one more round."""
    figures.setdefault(name, []).append(value)


def percentile(values: list[float], percent: int) -> float:
    """Return the nearest-rank percentile."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def report(title: str, figures: Figures, *, as_json: bool) -> None:
    """Print medians, spreads, and the ratio to the plain loop."""
    if not as_json:
        print(f"\n{title}")
    for name, values in figures.items():
        if name.endswith("(plain)"):
            continue
        unit = "records/s" if name.startswith("put") else "ms"
        median, plain = statistics.median(values), figures.get(f"{name} (plain)")
        bare_median = statistics.median(plain) if plain else None
        if as_json:
            facts = {"store": title, "name": name, "unit": unit, "values": values, "plain": plain}
            print(json.dumps(facts))
            continue
        spread = f"{min(values):,.2f} … {max(values):,.2f}"
        ratio = f"plain {bare_median:>10,.2f}   ratio {median / bare_median:5.2f}" if bare_median else ""
        print(f"  {name:20} {median:>12,.2f} {unit:9} {spread:26} {ratio}")


if __name__ == "__main__":
    main()
