"""Enqueueing: one awaited after another, from a hundred places, in bulk, with keys, and in all sizes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from taskcore.bench.environment import BenchEnvironment
from taskcore.bench.figures import Figure
from taskcore.bench.proc import UsageWatch
from taskcore.bench.tally import payload
from taskcore.task import Task

__all__ = ["enqueueing", "keys", "payloads"]

CONCURRENT_CALLERS = 100  #: callers that enqueue at the same time
PACKED_CALLS = 10_000  #: calls whose packing is timed as one value


async def enqueueing(environment: BenchEnvironment) -> list[Figure]:
    """Enqueue from one process: jobs a second, each stored as durably as the broker does it when the call returns."""
    queue = environment.new_queue()
    async with environment.app(queue) as app:
        task = app.tasks["bench.noop"]
        data = payload(0)

        async def one(jobs: int) -> None:
            for _ in range(jobs):
                await task.enqueue(data)

        async def hundred(jobs: int) -> None:
            async def some() -> None:
                for _ in range(jobs // CONCURRENT_CALLERS):
                    await task.enqueue(data)

            async with anyio.create_task_group() as group:
                for _ in range(CONCURRENT_CALLERS):
                    group.start_soon(some)

        async def bulk(jobs: int) -> None:
            await app.enqueue_many([task.call(data) for _ in range(jobs)])

        async def figure(name: str, send: Callable[[int], Awaitable[None]]) -> Figure:
            facts: dict[str, float] = {"bytes": len(data)}

            async def measure(jobs: int) -> float:
                watch = UsageWatch(environment.broker_cpu)
                await send(jobs)
                seconds, spent = watch.stop(jobs)
                facts.update(spent)
                await environment.holds(app, queue, jobs)
                await app.purge(queue)
                return seconds

            return environment.figure("enqueue", name, "jobs/s", await environment.rounds(measure), facts=facts)

        kinds = (("one awaited", one), ("100 at once", hundred), ("bulk", bulk))
        figures = [await figure(name, send) for name, send in kinds]
        return [*figures, _packing(environment, task, data)]


def _packing(environment: BenchEnvironment, task: Task[..., object], data: str) -> Figure:
    """Measure the check and the packing of a call's arguments, which come before any broker."""
    values = []
    for _ in range(environment.size.rounds):
        start = time.perf_counter()
        for _ in range(PACKED_CALLS):
            task.call(data)
        values.append((time.perf_counter() - start) / PACKED_CALLS * 1e6)
    return environment.figure("enqueue", "packing alone", "µs/job", tuple(values), "less")


async def keys(environment: BenchEnvironment) -> list[Figure]:
    """Enqueue with an idempotency key: new keys, and the same ones again, which must store nothing."""
    queue = environment.new_queue()
    async with environment.app(queue, with_store=True) as app:
        task = app.tasks["bench.keyed"]
        again: list[float] = []
        stored: list[int] = []

        async def first_and_again(jobs: int) -> float:
            calls = [task.using(key=f"{queue}-{len(again)}-{number}").call(payload(0)) for number in range(jobs)]
            start = time.perf_counter()
            first = await app.enqueue_many(calls)
            seconds = time.perf_counter() - start
            second = await app.enqueue_many(calls)
            again.append(jobs / (time.perf_counter() - start - seconds))
            if [job.id for job in second] != [job.id for job in first]:
                raise RuntimeError("a key that was used led to another job")
            stored.append((await app.stats(queue)).ready - jobs)
            await app.purge(queue)
            return seconds

        values = await environment.rounds(first_and_again, most=20_000)
        return [
            environment.figure("keys", "new keys, bulk", "jobs/s", values),
            environment.figure(
                "keys", "known keys, bulk", "jobs/s", tuple(again[1:]), facts={"stored_again": max(stored)}
            ),
        ]


async def payloads(environment: BenchEnvironment) -> list[Figure]:
    """Enqueue in bulk, by size of the arguments."""
    figures = []
    queue = environment.new_queue()
    async with environment.app(queue) as app:
        task = app.tasks["bench.noop"]
        for size in environment.size.payloads:
            data = payload(0, size)

            async def bulk(jobs: int, data: str = data) -> float:
                start = time.perf_counter()
                await app.enqueue_many([task.call(data) for _ in range(jobs)])
                seconds = time.perf_counter() - start
                await app.purge(queue)
                return seconds

            values = await environment.rounds(bulk, most=min(20_000, 100_000_000 // size))
            rate = max(values) * size / 1e6
            figures.append(
                environment.figure(
                    "payloads", f"{size:,} bytes, bulk", "jobs/s", values, facts={"bytes": size, "mb_s": rate}
                )
            )
    return figures
