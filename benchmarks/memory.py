"""How fast is taskcore itself? The in-memory backend, one process, a task that does nothing.

    python benchmarks/memory.py [--jobs 200000] [--rounds 5] [--json]

Prints medians and the spread over the rounds. The broker costs next to nothing here, so this is the price of taskcore's
own code: packing, envelopes, slots, deciding, settling. Figures depend on the machine: compare ratios, from one run.

    enqueue + drain      enqueue_many of calls that were packed before, until every job is settled
    with results         the same with an outcome stored for each job, and the last one awaited
    pack                 checking and packing the arguments of one call
    pack + envelope      the same, and building and encoding its envelope
    latency              one job at a time: enqueue until the function starts; and until the caller has its result
    import               `import taskcore` in a new process
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec

from taskcore import App
from taskcore.envelope import FORMAT, Envelope, encode_envelope, new_id

WARM_UP_JOBS = 200  #: jobs that are not counted
started_at = 0.0


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()

    figures: list[tuple[str, str, list[float]]] = [
        ("enqueue + drain", "jobs/s", rounds(options.rounds, lambda: throughput(options.jobs, results=False))),
        ("with results", "jobs/s", rounds(options.rounds, lambda: throughput(options.jobs // 2, results=True))),
        ("pack", "µs", [pack(envelope=False) for _ in range(options.rounds)]),
        ("pack + envelope", "µs", [pack(envelope=True) for _ in range(options.rounds)]),
    ]
    starts, ends = latencies(2_000)
    figures += [
        ("enqueue → start p50", "ms", [percentile(starts, 50)]),
        ("enqueue → start p99", "ms", [percentile(starts, 99)]),
        ("enqueue → result p50", "ms", [percentile(ends, 50)]),
        ("enqueue → result p99", "ms", [percentile(ends, 99)]),
        ("import taskcore", "ms", [import_time() for _ in range(options.rounds)]),
    ]
    for name, unit, values in figures:
        if options.json:
            print(json.dumps({"name": name, "unit": unit, "values": values, "median": statistics.median(values)}))
        else:
            spread = f"{min(values):,.2f} … {max(values):,.2f}" if len(values) > 1 else ""
            print(f"{name:22} {statistics.median(values):>12,.2f} {unit:7} {spread}")


def rounds(number: int, measure: Callable[[], Awaitable[float]]) -> list[float]:
    """Return one figure for each round, each in an event loop of its own."""
    values = []
    for _ in range(number):
        gc.collect()
        values.append(anyio.run(measure))
    return values


def make_app(*, results: bool) -> App:
    """Make an app with the task that does nothing."""
    app = App("memory://?limit=10000000")

    @app.task(name="noop", keep_result=3600.0 if results else None)
    async def noop(name: str, times: int = 1) -> None:
        pass

    return app


async def throughput(jobs: int, *, results: bool) -> float:
    """Return the jobs per second, from enqueue_many to settled."""
    app = make_app(results=results)
    calls = [app.tasks["noop"].call("Ada", times=2) for _ in range(jobs)]
    async with app.running():
        start = time.perf_counter()
        handles = await app.enqueue_many(calls)
        if results:
            await handles[-1].result()
        while app.counters.get("job.succeeded", 0) < jobs:  # noqa: ASYNC110 - nothing tells us when all are settled
            await anyio.sleep(0.001)
        return jobs / (time.perf_counter() - start)


def pack(*, envelope: bool) -> float:
    """Return the microseconds for one call."""
    task = make_app(results=False).tasks["noop"]
    number = 50_000
    start = time.perf_counter()
    for _ in range(number):
        call = task.call("Ada", times=2)
        if envelope:
            encode_envelope(
                Envelope(
                    v=FORMAT,
                    id=new_id(),
                    task="noop",
                    args=msgspec.Raw(call.payload),
                    enqueued_at=time.time(),
                    headers={},
                )
            )
    return (time.perf_counter() - start) / number * 1e6


def latencies(jobs: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from enqueue to the function's start, and to the caller's result, one job at a time."""
    app = App("memory://")

    @app.task(name="stamp")
    async def stamp() -> float:
        return time.perf_counter()

    async def measure() -> tuple[list[float], list[float]]:
        starts, ends = [], []
        async with app.running():
            for number in range(jobs + WARM_UP_JOBS):
                before = time.perf_counter()
                job = await stamp.enqueue()
                started = await job.result()
                if number >= WARM_UP_JOBS:  # the first ones warm up
                    starts.append((started - before) * 1e3)
                    ends.append((time.perf_counter() - before) * 1e3)
                await anyio.sleep(0.0005)
        return starts, ends

    result: tuple[list[float], list[float]] = anyio.run(measure)
    return result


def import_time() -> float:
    """Return the milliseconds of `import taskcore` in a new process, the interpreter's own start left out."""
    code = "import time; t = time.perf_counter(); import taskcore; print((time.perf_counter() - t) * 1e3)"
    run: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def percentile(values: list[float], percent: int) -> float:
    """Return the nearest-rank percentile."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


if __name__ == "__main__":
    main()
