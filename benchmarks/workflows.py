"""Measure workflows beside plain jobs: what a hop costs, how many steps a worker does, a map of 10,000 and its records.

python benchmarks/workflows.py              on a Redis of its own
python benchmarks/workflows.py URL [STORE]  on that broker

hop       from the return of a step to the start of the next one, 50 chains a second; beside it a plain job with result
steps     a worker that has 2,000 chains of five steps, beside one that has 10,000 plain jobs
map       10,000 children and what collects their results
records   how many writes of marks a child of that map costs, by how many workers share it
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio

from taskcore import App
from taskcore.faults import RedisServer
from taskcore.store import Write

RATE, SECONDS = 50, 10  #: chains a second, and for how long
CHAINS, PLACES = 2_000, 5
CHILDREN = 10_000
WORKERS = (2, 8, 32, 64)
CONCURRENCY = 100


class Marks:
    """Counts the writes of marks, those that come too late included."""

    def __init__(self) -> None:
        self.writes = 0

    def watch(self, store: Any) -> None:
        """Count what is written to a store from now on."""
        put_many = store.put_many

        async def counting(writes: Sequence[Write]) -> Any:
            self.writes += sum("/map/" in write.key or "/gate/" in write.key for write in writes)
            return await put_many(writes)

        store.put_many = counting


def make_app(url: str, store: str | None, *, concurrency: int = CONCURRENCY) -> App:
    """Make an app with the tasks of all parts."""
    app = App(url, store=store, concurrency=concurrency, keep_result="10m")

    @app.task(name="plain")
    async def plain(a: int) -> int:
        return a + 1

    @app.task(name="collect")
    async def collect(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="stamp")
    async def stamp(before: float) -> list[float]:
        return [time.time() - before, time.time()]

    @app.task(name="first")
    async def first() -> float:
        return time.time()

    return app


async def hop(url: str, store: str | None) -> None:
    """Let chains of two steps, and plain jobs, come at a rate."""
    app = make_app(url, store)
    tasks: Any = app.tasks
    hops, plain = list[float](), list[float]()

    async def one_chain() -> None:
        hops.append((await (await tasks["first"].call().then(tasks["stamp"]).submit()).result())[0])

    async def one_job() -> None:
        began = time.perf_counter()
        await (await tasks["plain"].enqueue(1)).result()
        plain.append(time.perf_counter() - began)

    async with app.running():
        for one in (one_job, one_chain):
            async with anyio.create_task_group() as group:
                for _ in range(RATE * SECONDS):
                    group.start_soon(one)
                    await anyio.sleep(1 / RATE)
    for name, times in (("a hop", sorted(hops)), ("a plain job, to its result", sorted(plain))):
        p50, p99 = statistics.median(times) * 1000, times[int(len(times) * 0.99)] * 1000
        print(f"hop       {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(f"hop       {statistics.median(hops) / statistics.median(plain):.2f} × the plain job")


async def steps(url: str, store: str | None) -> None:
    """Let a worker drain plain jobs, then as many steps of chains."""
    app = make_app(url, store)
    tasks: Any = app.tasks
    rates: list[float] = []
    async with app:
        jobs = await app.enqueue_many(tasks["plain"].call(number) for number in range(CHAINS * PLACES))
        began = time.perf_counter()
        async with app.running():
            await app.drain()
        rates.append(len(jobs) / (time.perf_counter() - began))
        for number in range(CHAINS):
            chain = tasks["plain"].call(number)
            for _ in range(PLACES - 1):
                chain = chain.then(tasks["plain"])
            await chain.submit()
        began = time.perf_counter()
        async with app.running():
            await app.drain()
        rates.append(CHAINS * PLACES / (time.perf_counter() - began))
    plain, chained = rates
    print(f"steps     {chained:,.0f} steps/s of chains, {plain:,.0f} plain jobs/s: {chained / plain:.0%}")


async def wide(url: str, store: str | None) -> None:
    """Let one worker run a map of many children, from its submission to the collected result."""
    app = make_app(url, store)
    tasks: Any = app.tasks
    async with app.running():
        workflow = app.workflow("map")
        began = time.perf_counter()
        run = await workflow.submit(workflow.map(tasks["plain"], range(CHILDREN)).then(tasks["collect"]))
        assert await run.result() == sum(range(1, CHILDREN + 1))
        seconds = time.perf_counter() - began
    print(f"map       {CHILDREN:,} children and their collector: {seconds:.2f} s")


async def records(url: str, store: str | None) -> None:
    """Let more and more workers share a map, and count their writes of marks."""
    for number in WORKERS:
        apps, marks = [make_app(url, store, concurrency=10) for _ in range(number)], Marks()
        async with AsyncExitStack() as entered:
            for app in apps:
                await entered.enter_async_context(app.running())
                marks.watch(app.components.store)
            tasks: Any = apps[0].tasks
            workflow = apps[0].workflow("map")
            run = await workflow.submit(workflow.map(tasks["plain"], range(CHILDREN)).then(tasks["collect"]))
            await run.result()
        print(f"records   {number} workers: {marks.writes / CHILDREN:.2f} writes of marks for each child")


PARTS = (hop, steps, wide, records)


async def measure(arguments: Sequence[str]) -> None:
    """Measure on a server of its own, or on the one that is named."""
    if arguments:
        for part in PARTS:
            await part(arguments[0], arguments[1] if len(arguments) > 1 else None)
        return
    async with RedisServer() as server:
        for part in PARTS:
            await part(server.url, None)


if __name__ == "__main__":
    anyio.run(measure, sys.argv[1:])
