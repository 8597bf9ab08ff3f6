"""Waiting: until a queue is empty; what a wait that took too long can tell; a warning for a job that waits.

A worker's slot that waits for a job of the same worker may wait for ever: when all slots wait, none is left to run what
they wait for. So a job that does it is named in the log, once for each task, with the way out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

from taskcore.backend import QueueStats
from taskcore.client.queries import JobQueries, named
from taskcore.envelope import running
from taskcore.errors import ResultTimeout
from taskcore.records.names import workflow_name
from taskcore.records.parked import find_parked
from taskcore.results import JobStatus
from taskcore.store import Store
from taskcore.task import Job
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import Duration, seconds_of

__all__ = ["drain", "explain", "status_elsewhere", "warn_inside"]

log = logger("taskcore.client")

_warned = set[tuple[str, str]]()  # which task has waited for which


def warn_inside(job: Job[Any]) -> None:
    """Warn once if this is a job that waits for a job of the same worker."""
    context = running.get(None)
    if context is None:
        return
    slot = context._slot  # noqa: SLF001 - the worker's own
    here = None if slot is None or slot.job is None else slot.job.pool
    queues = (context.queue,) if here is None else here.queues
    waits = (context.task, job.task.name)
    if job.queue not in queues or waits in _warned:
        return
    _warned.add(waits)
    log.warning(
        "job %s of %s waits in its slot for job %s of %s, which the same worker has to run: when all slots wait, none "
        "of these jobs ends; end the job with `return continue_with(…)`, which holds no slot (taskcore.workflows)",
        context.job_id,
        context.task,
        job.id,
        job.task.name,
    )


async def status_elsewhere(store: Store | None, job_id: str) -> JobStatus:
    """Find the status of a job that has no outcome and is not at the broker: it may go on as a workflow."""
    goes_on = store is not None and await store.get(workflow_name(job_id)) is not None
    return "running" if goes_on else "unknown"


async def explain(queries: JobQueries, job: Job[Any], timeout: float) -> ResultTimeout:
    """Make the error of a wait that took too long, with what is known about the job."""
    facts: list[str] = []
    what = f"no result for {named(job)} after {timeout:g} s"
    with anyio.move_on_after(queries.timeout):
        state = await queries.status(job)
        facts = [f"the job is: {state}"]
        if state == "unknown" and queries.backend.features.locate != "absent":
            facts.append("no queue and no record has this id: it may be wrong, or its outcome is no longer kept")
        if not job.queue:
            return ResultTimeout(what, facts=facts, fix="wait longer, or start a worker", job_id=job.id)
        [stats] = await queries.admin.stats([job.queue])
        facts.append(f'queue "{job.queue}": {_counts(stats)}')
        if state == "queued" and not stats.leased:
            facts.append("no job of this queue is running: is a worker listening to it?")
        if state in {"scheduled", "unknown"} and queries.store is not None:
            parked = await find_parked(queries.store, job.task.name)
            if parked is not None:
                facts.append(f"worker {parked.worker} has parked jobs of {job.task.name}: {parked.why}")
    return ResultTimeout(
        what,
        facts=facts,
        fix="wait longer, or start a worker on that queue"
        + (" that knows the task" if any("has parked" in fact for fact in facts) else ""),
        job_id=job.id,
    )


async def drain(queries: JobQueries, queues: Iterable[str], timeout: Duration | None) -> None:
    """Wait until each queue holds no job that is ready, running or scheduled.

    :param timeout: how long to wait for each queue; None sets no limit.
    :raises TimeoutError: a queue was not empty by then; the text says what it holds.
    """
    pause, limit = 0.005, None if timeout is None else seconds_of("timeout", timeout)
    for queue in queues:
        began = anyio.current_time()
        while True:
            [stats] = await queries.admin.stats([queue])
            if not stats.unfinished:
                break
            if limit is not None and anyio.current_time() - began >= limit:
                raise TimeoutError(f'queue "{queue}" is not empty after {limit:g} s: {_counts(stats)}')
            await anyio.sleep(pause)
            pause = min(pause * 1.5, 0.1)


def _counts(stats: QueueStats) -> str:
    running, scheduled = ("?" if count is None else count for count in (stats.leased, stats.scheduled))
    return f"{stats.ready} ready, {running} running, {scheduled} scheduled"
