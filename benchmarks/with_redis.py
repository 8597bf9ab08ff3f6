"""taskcore on Redis beside what the client library itself reaches, in one run.

    python benchmarks/with_redis.py [--url redis://…] [--jobs 50000] [--rounds 3] [--json]

Without --url it starts a private server with an append-only file (everysec). 200 bytes of payload; the task does
nothing; one process beside the server. Only the ratios mean anything: absolutes move with the machine and its mood.

    bulk       enqueue_many                    raw: one script of 100 XADD after another
    awaited    one enqueue after another       raw: one XADD after another
    hundred    100 tasks that enqueue at once
    drain      a worker on a full queue        raw: XREADGROUP 100, XACK and XDEL, in one pipeline with the next read
    results    the same, an outcome stored for each job
    latency    one job every 20 ms: enqueue until the function starts
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from taskcore import App
from taskcore.faults import RedisServer

PAYLOAD = "x" * 200
QUEUE = "bench"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server to use; its database is flushed")
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="parts of names")
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()
    figures = anyio.run(measure, options)
    for name, unit, values, raw in figures:
        value = statistics.median(values)
        ratio = value / statistics.median(raw) if raw else None
        if options.json:
            print(json.dumps({"name": name, "unit": unit, "values": values, "raw": raw, "ratio": ratio}))
        else:
            spread = f"{min(values):,.2f} … {max(values):,.2f}" if len(values) > 1 else ""
            beside = f"{ratio:>6.0%} of {statistics.median(raw):,.0f}" if ratio and raw else ""
            print(f"{name:22} {value:>12,.2f} {unit:7} {beside:20} {spread}")


Figure = tuple[str, str, list[float], list[float] | None]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Measure all figures."""
    async with server(options.url) as url:
        redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)
        jobs, few = options.jobs, max(options.jobs // 10, 2_000)
        pairs: list[tuple[str, str, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]] | None]] = [
            ("enqueue, bulk", "jobs/s", lambda: bulk(url, jobs), lambda: raw_bulk(redis, jobs)),
            ("enqueue, awaited", "jobs/s", lambda: awaited(url, few), lambda: raw_awaited(redis, few)),
            ("enqueue, 100 at once", "jobs/s", lambda: hundred(url, jobs // 2), None),
            ("drain", "jobs/s", lambda: drain(url, jobs, results=False), lambda: raw_drain(redis, jobs)),
            (
                "drain with results",
                "jobs/s",
                lambda: drain(url, jobs // 2, results=True),
                lambda: raw_drain(redis, jobs),
            ),
        ]
        figures: list[Figure] = []
        for name, unit, ours, raw in pairs:
            if options.only and not any(part in name for part in options.only):
                continue
            values: list[float] = []
            limits: list[float] = []
            for _ in range(options.rounds):  # in turns, so that a slow minute of the machine is slow for both
                for figure, kept in ((raw, limits), (ours, values)):
                    if figure is not None:
                        await redis.flushall()
                        kept.append(await figure())
            figures.append((name, unit, values, limits or None))
        if not options.only or any(part in "latency" for part in options.only):
            await redis.flushall()
            starts = await latencies(url, 400)
            figures += [(f"latency p{percent}", "ms", [percentile(starts, percent)], None) for percent in (50, 99)]
        await redis.aclose()
        return figures


@asynccontextmanager
async def server(url: str | None) -> AsyncIterator[str]:
    """Yield the server to measure."""
    if url is not None:
        yield url
        return
    async with RedisServer(config={"appendfsync": "everysec"}) as private:
        yield private.url


# ── what the client library reaches ──────────────────────────────────────────────────────────────

XADD_MANY = "for i=1,#ARGV do redis.call('XADD', KEYS[1], '*', 'e', ARGV[i]) end"


async def raw_bulk(redis: Redis, jobs: int) -> float:
    """Return the XADDs per second, a hundred in a script."""
    script = redis.register_script(XADD_MANY)
    batch = [PAYLOAD] * 100
    await script(keys=["raw"], args=batch)
    start = time.perf_counter()
    for _ in range(jobs // 100):
        await script(keys=["raw"], args=batch)
    return jobs / (time.perf_counter() - start)


async def raw_awaited(redis: Redis, jobs: int) -> float:
    """Return the XADDs per second, one after another."""
    start = time.perf_counter()
    for _ in range(jobs):
        await redis.execute_command("XADD", "raw", "*", "e", PAYLOAD)
    return jobs / (time.perf_counter() - start)


async def raw_drain(redis: Redis, jobs: int) -> float:
    """Return the entries per second, read and acknowledged and deleted a hundred at a time."""
    await raw_bulk(redis, jobs)
    await redis.execute_command("XGROUP", "CREATE", "raw", "g", "0")
    done: list[bytes] = []
    seen = 0
    start = time.perf_counter()
    while True:
        pipeline = redis.pipeline(transaction=False)
        if done:
            pipeline.execute_command("XACK", "raw", "g", *done)
            pipeline.execute_command("XDEL", "raw", *done)
        pipeline.execute_command("XREADGROUP", "GROUP", "g", "c", "COUNT", 100, "STREAMS", "raw", ">")
        entries = (await pipeline.execute())[-1]
        if not entries:
            return seen / (time.perf_counter() - start)
        [(_, found)] = entries.items() if isinstance(entries, dict) else entries
        done = [entry for entry, _ in (found[0] if isinstance(entries, dict) else found)]
        seen += len(done)


# ── what taskcore reaches ────────────────────────────────────────────────────────────────────────


def make_app(url: str, *, results: bool = False) -> App:
    """Make an app with the task that does nothing."""
    app = App(url, store=None if results else "none")

    @app.task(name="noop", queue=QUEUE, keep_result=3600.0 if results else None)
    async def noop(data: str) -> None:
        pass

    return app


async def bulk(url: str, jobs: int) -> float:
    """Return the jobs per second by enqueue_many."""
    app = make_app(url)
    async with app:
        calls = [app.tasks["noop"].call(PAYLOAD) for _ in range(jobs)]
        start = time.perf_counter()
        await app.enqueue_many(calls)
        return jobs / (time.perf_counter() - start)


async def awaited(url: str, jobs: int) -> float:
    """Return the jobs per second, one enqueue after another."""
    app = make_app(url)
    async with app:
        task = app.tasks["noop"]
        start = time.perf_counter()
        for _ in range(jobs):
            await task.enqueue(PAYLOAD)
        return jobs / (time.perf_counter() - start)


async def hundred(url: str, jobs: int) -> float:
    """Return the jobs per second from a hundred tasks of the same program."""
    app = make_app(url)
    async with app:
        task = app.tasks["noop"]

        async def some() -> None:
            for _ in range(jobs // 100):
                await task.enqueue(PAYLOAD)

        start = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(some)
        return jobs / (time.perf_counter() - start)


async def drain(url: str, jobs: int, *, results: bool) -> float:
    """Return the jobs per second of one worker that finds a full queue."""
    app = make_app(url, results=results)
    async with app:
        await app.enqueue_many([app.tasks["noop"].call(PAYLOAD) for _ in range(jobs)])
        start = time.perf_counter()
        async with app.running():
            while app.counters.get("job.succeeded", 0) < jobs:  # noqa: ASYNC110 - nothing tells when all are settled
                await anyio.sleep(0.002)
            return jobs / (time.perf_counter() - start)


async def latencies(url: str, jobs: int) -> list[float]:
    """Return the milliseconds from enqueue to the function's start, one job every 20 ms."""
    app = App(url, store="none")
    starts: list[float] = []

    @app.task(name="stamp", queue=QUEUE)
    async def stamp(sent: float) -> None:
        starts.append((time.perf_counter() - sent) * 1e3)

    async with app.running():
        for _ in range(jobs + 20):
            await stamp.enqueue(time.perf_counter())
            await anyio.sleep(0.02)
    return starts[20:]  # the first ones warm up


def percentile(values: list[float], percent: int) -> float:
    """Return the nearest-rank percentile."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


if __name__ == "__main__":
    main()
