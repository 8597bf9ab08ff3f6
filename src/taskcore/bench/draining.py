"""Draining: workers that find a full queue; how fast it is empty, what a job costs in CPU, who was forgotten."""

from __future__ import annotations

import time

from taskcore.app import App
from taskcore.bench.environment import MAX_JOBS, PILOT_JOBS, BenchEnvironment
from taskcore.bench.figures import Figure
from taskcore.bench.tally import Tally, payload
from taskcore.bench.workers import WorkersReport

__all__ = ["backlog", "draining", "retry_storm"]

DRAIN_TIMEOUT = 120.0  #: seconds that a drain may take
UNDER_WAY = 4  #: times as fast as with the pilot's few jobs a drain may be, and last for half a second still


class Drained:
    """What one drain came to; ``broker`` is its CPU time in seconds, None if unknown."""

    def __init__(self, report: WorkersReport, jobs: int, broker: float | None) -> None:
        self.report = report
        self.jobs = jobs
        self.broker = broker
        self.account = report.account(jobs)

    @property
    def rate(self) -> float:
        """Jobs a second, from the first start to the last end."""
        return self.jobs / max(self.report.seconds, 1e-9)


async def drain(environment: BenchEnvironment, jobs: int, *, task: str = "bench.noop", processes: int = 1) -> Drained:
    """Enqueue so many jobs, then let workers come."""
    queue, tally = environment.new_queue(), Tally()
    async with environment.app(queue, with_store=task == "bench.answer", tally=tally) as app:
        await app.enqueue_many([app.tasks[task].call(payload(number)) for number in range(jobs)])
        drained = await _drain(environment, app, queue, tally, jobs, processes)
    await environment.clean_up()
    return drained


async def _drain(
    environment: BenchEnvironment, app: App, queue: str, tally: Tally, jobs: int, processes: int
) -> Drained:
    before = environment.broker_cpu()
    async with environment.workers(app, queue, tally, number=processes) as workers:
        await workers.count_to(jobs, within=DRAIN_TIMEOUT)
        await environment.settled(app, queue)
        after = environment.broker_cpu()
        return Drained(
            await workers.dismiss(), jobs, None if before is None or after is None else max(after - before, 0.0)
        )


async def draining(environment: BenchEnvironment) -> list[Figure]:
    """Drain no-op jobs of 200 bytes, by 1, 2, 4 worker processes; and with a result stored for each."""
    figures = []
    numbers = (1,) if environment.is_local else environment.size.processes
    pilot = await drain(environment, PILOT_JOBS)
    jobs = max(min(int(pilot.rate * environment.size.seconds * UNDER_WAY), MAX_JOBS) // 100, 5) * 100
    for number in numbers:
        runs = [await drain(environment, jobs, processes=number) for _ in range(environment.size.rounds)]
        name = f"{number} process{'es' if number > 1 else ''}"
        figures.append(
            environment.figure("drain", name, "jobs/s", tuple(run.rate for run in runs), facts=_account(runs))
        )
        if number == 1:
            figures += _costs(environment, runs)
    if environment.store != "none":
        runs = [await drain(environment, jobs // 2, task="bench.answer") for _ in range(environment.size.rounds)]
        rates = tuple(run.rate for run in runs)
        facts = _account(runs) | {"cpu": runs[-1].report.cpu / runs[-1].jobs * 1e6}
        if (broker := runs[-1].broker) is not None:
            facts["broker_cpu"] = broker / runs[-1].jobs * 1e6
        figures.append(environment.figure("drain", "with results", "jobs/s", rates, facts=facts))
    return figures


def _account(runs: list[Drained]) -> dict[str, float]:
    """Count the jobs of all rounds together, and what became of them."""
    return {key: sum(run.account[key] for run in runs) for key in ("jobs", "lost", "duplicated")}


def _costs(environment: BenchEnvironment, runs: list[Drained]) -> list[Figure]:
    """Measure the CPU and memory of a drain by one process; a worker in this process has no costs of its own."""
    worker = tuple(run.report.cpu / run.jobs * 1e6 for run in runs)
    figures = [environment.figure("cost", "worker CPU", "µs/job", worker, "less")]
    broker = tuple(run.broker / run.jobs * 1e6 for run in runs if run.broker is not None)
    if broker:
        figures.append(environment.figure("cost", "broker CPU", "µs/job", broker, "less"))
    if not environment.is_local:
        peak = tuple(run.report.rss / 1e6 for run in runs)
        figures.append(environment.figure("cost", "worker memory, at most", "MB", peak, "less"))
    return figures


async def retry_storm(environment: BenchEnvironment) -> list[Figure]:
    """Drain jobs that all fail twice, ten milliseconds apart, before they succeed: jobs a second that are through."""
    pilot = await drain(environment, PILOT_JOBS, task="bench.failing")
    jobs = max(min(int(pilot.rate * environment.size.seconds), 20_000) // 100, 1) * 100
    runs = [await drain(environment, jobs, task="bench.failing") for _ in range(environment.size.rounds)]
    rates = tuple(run.rate for run in runs)
    return [environment.figure("retries", "each fails twice, then succeeds", "jobs/s", rates, facts=_account(runs))]


async def backlog(environment: BenchEnvironment) -> list[Figure]:
    """Measure the same drain and the same enqueue behind a long queue, which should not make them slower."""
    many, few = environment.size.backlog, 10_000
    queue, tally = environment.new_queue(), Tally()
    async with environment.app(queue, tally=tally) as app:
        task = app.tasks["bench.noop"]
        start = time.perf_counter()
        for first in range(0, many, few):
            await app.enqueue_many([task.call(payload(first + number)) for number in range(min(few, many - first))])
        filling = many / (time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(PILOT_JOBS):
            await task.enqueue(payload(many))
        single = PILOT_JOBS / (time.perf_counter() - start)
        async with environment.workers(app, queue, tally) as workers:
            await workers.count_to(min(few * 2, many), within=DRAIN_TIMEOUT)
            counted, since = workers.counted(), time.perf_counter()
            await workers.count_to(min(counted + few * 2, many), within=DRAIN_TIMEOUT)
            rate = (workers.counted() - counted) / max(time.perf_counter() - since, 1e-9)
            await workers.dismiss()
    await environment.clean_up()
    return [
        environment.figure("backlog", "filling it, bulk", "jobs/s", (filling,), facts={"jobs": many}),
        environment.figure("backlog", "one awaited, behind it", "jobs/s", (single,), facts={"jobs": many}),
        environment.figure("backlog", "drain, at its beginning", "jobs/s", (rate,), facts={"jobs": many}),
    ]
