"""Waiting for jobs: what a wait that took too long can tell."""

from __future__ import annotations

from typing import Any

import anyio

from taskcore.client.queries import JobQueries, counts_of, named
from taskcore.errors import ResultTimeout
from taskcore.records.parked import find_parked
from taskcore.task import Job

__all__ = ["explain"]


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
        facts.append(f'queue "{job.queue}": {counts_of(stats)}')
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
