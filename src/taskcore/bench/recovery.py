"""What a kill costs: SIGKILL of a worker, SIGKILL of the broker; everything is counted from ids in a ledger."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import anyio

from taskcore.app import App
from taskcore.bench.environment import BenchEnvironment
from taskcore.bench.figures import Figure
from taskcore.bench.ledger import JobLedger, LedgerEntry, reconcile
from taskcore.bench.tally import payload
from taskcore.envelope import new_id
from taskcore.errors import BrokerUnavailable, EnqueueUncertain

__all__ = ["broker_killed", "worker_killed"]

MISSING_AFTER = 15.0  #: seconds after which a job that has not ended is missing
JOB_SECONDS = 0.05  #: seconds that one job takes
BIN_SECONDS = 0.1  #: seconds of one step of a timeline
DOWN_SECONDS = 0.5  #: seconds before a killed broker is started again
BACK_WITHIN = 60.0  #: seconds from its return until every job is accepted


async def worker_killed(environment: BenchEnvironment) -> list[Figure]:
    """Kill a worker when a third is done, start another at once, and measure until all is done."""
    queue, ledger, jobs = environment.new_queue(), environment.ledger(), environment.size.killed_jobs
    async with environment.app(queue) as app:
        task = app.tasks["bench.signing"]
        await app.enqueue_many([task.call(payload(number), JOB_SECONDS) for number in range(jobs)])
        killed = 0.0
        async with environment.processes(app, queue, ledger=ledger, lease=environment.size.lease) as victim:
            await _until(ledger, jobs // 3)
            killed = time.monotonic()
            victim.kill()
        held = _unfinished(ledger.read())
        async with environment.processes(app, queue, ledger=ledger, lease=environment.size.lease):
            await _until(ledger, jobs)
            await environment.settled(app, queue)
    await environment.clean_up()
    entries = ledger.read()
    ledger.close()
    seconds = max((entry.when for entry in entries if entry.what == "end"), default=killed) - killed
    facts = _facts(range(jobs), entries, killed) | {"in_hand": held, "lease": environment.size.lease}
    return [environment.figure("worker killed", "all jobs have ended after", "s", (seconds,), "less", facts)]


async def broker_killed(environment: BenchEnvironment) -> list[Figure]:
    """Kill the broker, and start it again, while jobs arrive, each repeated with its id until it is accepted.

    :raises TimeoutError: some are still not accepted long after that.
    """
    server, size = environment.private(), environment.size
    queue, ledger = environment.new_queue(), environment.ledger()
    killed = again = 0.0
    jobs = int(size.outage * size.outage_jobs)
    accepted: list[int] = []
    repeats = 0

    async def send(app: App, number: int) -> None:
        nonlocal repeats
        job_id = new_id()
        while True:
            try:
                await app.tasks["bench.signing"].using(id=job_id).enqueue(payload(number), 0.0)
            except (BrokerUnavailable, EnqueueUncertain):
                repeats += 1
                await anyio.sleep(0.1)
            else:
                accepted.append(number)
                return

    async def arrive(app: App) -> None:
        start = time.monotonic()
        async with anyio.create_task_group() as group:
            for number in range(1, jobs):
                await anyio.sleep(max(start + number / size.outage_jobs - time.monotonic(), 0.0))
                group.start_soon(send, app, number)

    async with (
        environment.app(queue, send_timeout=3.0) as app,
        environment.processes(app, queue, ledger=ledger, lease=environment.size.lease),
    ):
        with anyio.move_on_after(BACK_WITHIN):  # the queue is there and in use before the kill
            await send(app, 0)
        await _until(ledger, 1)
        async with anyio.create_task_group() as group:
            group.start_soon(arrive, app)
            await anyio.sleep(size.outage / 3)
            killed = time.monotonic()
            server.kill()
            await anyio.sleep(DOWN_SECONDS)
            await server.start()
            again = time.monotonic()
            group.cancel_scope.deadline = anyio.current_time() + size.outage + BACK_WITHIN
        if len(accepted) < jobs:
            raise TimeoutError(f"not back within {BACK_WITHIN:g} s: {len(accepted)} of {jobs} jobs were accepted")
        await _until(ledger, len(set(accepted)))
        await environment.settled(app, queue)
    await environment.clean_up()
    entries = ledger.read()
    ledger.close()
    facts = _facts(accepted, entries, killed) | {"repeats": repeats, "down": again - killed}
    ends = (entry.when for entry in entries if entry.what == "end" and entry.when > again)
    return _outage_figures(environment, killed, again, min(ends, default=again + MISSING_AFTER), facts)


def _outage_figures(
    environment: BenchEnvironment, killed: float, again: float, back: float, facts: dict[str, Any]
) -> list[Figure]:
    """Make the figures of a broker that was killed, was started again, and whose jobs ended again."""
    return [
        environment.figure("broker killed", "jobs end again, after it is back", "s", (back - again,), "less", facts),
        environment.figure("broker killed", "it was away for", "s", (again - killed,), "", {"down": DOWN_SECONDS}),
    ]


async def _until(ledger: JobLedger, jobs: int) -> None:
    with anyio.move_on_after(MISSING_AFTER):
        while ledger.ended() < jobs:  # noqa: ASYNC110 - other processes write it
            await anyio.sleep(0.05)


def _unfinished(entries: Sequence[LedgerEntry]) -> int:
    """Count the jobs that were started and not ended."""
    started = {entry.number for entry in entries if entry.what == "start"}
    return len(started - {entry.number for entry in entries if entry.what == "end"})


def _facts(sent: Sequence[int], entries: Sequence[LedgerEntry], killed: float) -> dict[str, object]:
    """Return the account, and how many jobs ended in each tenth of a second around the kill."""
    ends = [entry.when - killed for entry in entries if entry.what == "end"]
    first, last = min(ends, default=0.0), max(ends, default=0.0)
    timeline = [0] * (int((last - first) / BIN_SECONDS) + 1)
    for when in ends:
        timeline[int((when - first) / BIN_SECONDS)] += 1
    return dict(reconcile(sent, entries)._asdict()) | {
        "timeline": timeline,
        "from": round(first, 3),
        "bin": BIN_SECONDS,
    }
