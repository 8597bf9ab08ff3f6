"""Latency without self-deception: jobs arrive at fixed times, whether or not those before them are through.

Each is measured from the time at which it *was to be* sent. A sender that waits for an answer, or is late itself, makes
the figure worse and never better: what is called coordinated omission cannot happen.
"""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel

from taskcore.app import App
from taskcore.bench.environment import BenchEnvironment
from taskcore.bench.figures import Figure, percentile
from taskcore.bench.tally import Tally, payload
from taskcore.task import Task

__all__ = ["open_loop", "results", "scheduled"]

PERCENTILES = (50, 90, 95, 99, 99.9)
RARE_PERCENTILE = 99.9  #: the percentile that needs many values
MIN_VALUES_FOR_P999 = 1_000  #: values: with fewer, a p99.9 is only the largest of them
WARM_UP = 50
SLEEP_UNTIL = 0.0015  #: seconds before the time at which the event loop's own clock is too coarse
SPIN_SECONDS = 0.0004  #: the rest is spent looking at the clock, because waking up takes time, too
CONCURRENT_CALLERS = 100  #: callers that enqueue at the same time


async def open_loop(environment: BenchEnvironment) -> list[Figure]:
    """Measure from an enqueue's intended time to the function's start, at fixed arrival rates; one worker process."""
    figures = []
    for rate, seconds in environment.size.arrivals:
        queue, tally = environment.new_queue(), Tally()
        async with (
            environment.app(queue, tally=tally) as app,
            environment.workers(app, queue, tally, timed=True) as workers,
        ):
            jobs = int(rate * seconds) + WARM_UP
            await app.tasks["bench.noop"].enqueue(payload(jobs))
            await workers.count_to(1, within=60.0)  # from here on a worker runs
            sender_late = await arrive(app, rate, jobs, works_here=environment.is_local)
            await workers.count_to(jobs + 1, within=60.0)
            report = await workers.dismiss()
        await environment.clean_up()
        late = report.latencies[1 + WARM_UP :]
        facts = report.account(jobs) | {
            "rate": rate,
            "measured": len(late),
            "sender_late_p99_ms": percentile(sender_late[WARM_UP:], 99) * 1e3,
            "curve": [round(percentile(late, one) * 1e3, 4) for one in (*range(1, 100), 99.5, 99.9)],
        }
        for percent in PERCENTILES:
            if percent < RARE_PERCENTILE or len(late) >= MIN_VALUES_FOR_P999:
                value = percentile(late, percent) * 1e3
                figures.append(environment.figure("latency", f"{rate:g}/s, p{percent}", "ms", (value,), "less", facts))
                facts = {"rate": rate}  # the curve is reported once
    return figures


async def arrive(app: App, rate: float, jobs: int, *, works_here: bool = False) -> list[float]:
    """Send jobs at fixed times; how late each was handed to ``enqueue``, in seconds.

    :param works_here: the worker lives in this event loop, which must not be held up therefore.
    """
    task = app.tasks["bench.noop"]
    under_way = 0
    late: list[float] = []

    async def send(number: int, due: float) -> None:
        nonlocal under_way
        late.append(time.monotonic() - due)
        await task.enqueue(payload(number, due=due))
        under_way -= 1

    start = time.monotonic() + 0.1
    async with anyio.create_task_group() as group:
        for number in range(jobs):
            due = start + number / rate
            if under_way:
                await anyio.lowlevel.checkpoint()  # also when this loop is late, or they would wait for its end
            while (left := due - time.monotonic()) > 0:
                if left > SLEEP_UNTIL:
                    await anyio.sleep(left - SLEEP_UNTIL)
                elif under_way or works_here:
                    await anyio.lowlevel.checkpoint()
                elif (
                    left > SPIN_SECONDS
                ):  # no other task has anything to do in this loop, whose own clock counts in milliseconds
                    time.sleep(left - SPIN_SECONDS)  # noqa: ASYNC251
            under_way += 1  # from here on, and not from when it begins: it begins only when this loop lets others run
            group.start_soon(send, number, due)
    return late


async def results(environment: BenchEnvironment) -> list[Figure]:
    """Measure from ``enqueue`` to the caller's ``result()``: one at a time, and from a hundred places."""
    queue, tally = environment.new_queue(), Tally()
    async with (
        environment.app(queue, with_store=True, tally=tally) as app,
        environment.workers(app, queue, tally),
    ):
        task = app.tasks["bench.answer"]
        number = WARM_UP + (100 if environment.size.quick else 300)
        trips = [await _trip(task) for _ in range(number)][WARM_UP:]

        async def many(jobs: int) -> float:
            async def some() -> None:
                for _ in range(jobs // CONCURRENT_CALLERS):
                    await _trip(task)

            start = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(CONCURRENT_CALLERS):
                    group.start_soon(some)
            return time.perf_counter() - start

        rates = await environment.rounds(many, most=20_000)
    await environment.clean_up()
    return [
        environment.figure("results", f"round trip, p{percent}", "ms", (percentile(trips, percent) * 1e3,), "less")
        for percent in (50, 99)
    ] + [environment.figure("results", "round trips, 100 at once", "jobs/s", rates)]


async def _trip(task: Task[..., object]) -> float:
    start = time.perf_counter()
    data = payload(0)
    job = await task.enqueue(data)
    if await job.result(timeout=30.0) != len(data):
        raise RuntimeError("a job came back with another result than its own")
    return time.perf_counter() - start


async def scheduled(environment: BenchEnvironment) -> list[Figure]:
    """Enqueue jobs that are all due within one second, and measure how late they start; none may be early."""
    queue, tally = environment.new_queue(), Tally(timed=True)
    jobs, ahead = environment.size.scheduled, 1.5
    async with (
        environment.app(queue, tally=tally) as app,
        environment.workers(app, queue, tally, timed=True) as workers,
    ):
        task = app.tasks["bench.noop"]
        await task.enqueue(payload(jobs))
        await workers.count_to(1, within=60.0)  # from here on the queue exists, and a worker runs
        start = time.monotonic()
        # `delay` counts from when the broker stores the job, which is a little later than now: never "early" by this
        dues = [start + ahead + number / jobs for number in range(jobs)]
        await app.enqueue_many(
            [task.using(delay=due - start).call(payload(number, due=due)) for number, due in enumerate(dues)]
        )
        rate = jobs / (time.monotonic() - start)
        await workers.count_to(jobs + 1, within=60.0)
        report = await workers.dismiss()
    await environment.clean_up()
    late = report.latencies[1:]
    facts = report.account(jobs) | {"early": sum(1 for one in late if one < 0)}
    return [
        environment.figure("scheduled", "enqueue, bulk", "jobs/s", (rate,), facts={"jobs": jobs}),
        environment.figure("scheduled", "late, p50", "ms", (percentile(late, 50) * 1e3,), "less", facts),
        environment.figure("scheduled", "late, p99", "ms", (percentile(late, 99) * 1e3,), "less"),
    ]
