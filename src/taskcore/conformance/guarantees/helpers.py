"""What checks through an app share: tasks of the harness's own, workers that take, die and take over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from taskcore.app import App
from taskcore.conformance.checks import require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.deadletter import DeadLetter
from taskcore.errors import ResultTimeout
from taskcore.results import JobOutcome
from taskcore.router import Router
from taskcore.task import Job as Sent
from taskcore.worker.execution import Execution

__all__ = ["die_holding", "letters_of", "open_app", "outcome_of", "take", "take_nothing", "until", "work", "working"]


async def open_app(harness: Harness, router: Router, **settings: Any) -> App:
    """Open an app with these tasks, on connections of its own."""
    app = await harness.app(**settings)
    app.include(router)
    return app


async def take(harness: Harness, step_worker: StepWorker) -> Execution:
    """Take the next job, which a dead worker may still hold.

    :raises ClauseViolated: there is none.
    """
    within = harness.lease + harness.timeout
    job = await step_worker.take(within=within)
    if job is None:
        raise ClauseViolated(f"no job came within {within:.1f} s")
    return job


async def take_nothing(harness: Harness, step_worker: StepWorker, why: str) -> None:
    """Check that there is no job, not even after every lease has run out."""
    job = await step_worker.take(within=harness.beyond)
    if job is not None:
        raise ClauseViolated(f"{why}: a job was handed out with {job.delivery.redeliveries} redeliveries")


async def work(harness: Harness, step_worker: StepWorker) -> Execution:
    """Take the next job, perform and settle it.

    :raises ClauseViolated: there is none, or its lease was lost.
    """
    job = await take(harness, step_worker)
    require(await step_worker.work(job), "the lease of a job was lost although it was settled in time")
    return job


async def die_holding(harness: Harness, app: App, *queues: str, performed: bool = True) -> Execution:
    """Let a worker take a job, perform it or not, and be gone before anything is written."""
    async with StepWorker(app, queues or (harness.queue(),), name="the dead") as step_worker:
        job = await take(harness, step_worker)
        if performed:
            await step_worker.perform(job)
        return job


@asynccontextmanager
async def working(harness: Harness, app: App, *queues: str, **options: Any) -> AsyncIterator[App]:
    """Run the app with a real worker on the harness's queue, or on those named."""
    async with app.running(queues=queues or (harness.queue(),), **{"grace": harness.timeout, **options}):
        yield app


async def outcome_of(harness: Harness, job: Sent[Any]) -> JobOutcome[Any]:
    """Return how a job ended.

    :raises ClauseViolated: it did not end in time.
    """
    try:
        return await job.outcome(timeout=2 * harness.lease + harness.timeout)
    except ResultTimeout as error:
        raise ClauseViolated(f"a job did not end: {'; '.join((error.what, *error.facts))}") from error


async def letters_of(app: App, queue: str) -> list[DeadLetter]:
    """Return all dead letters of a queue."""
    return [letter async for letter in app.dead_letters.read(queue)]


async def until(harness: Harness, true: Callable[[], object | Awaitable[object]], sentence: str) -> None:
    """Check that it becomes true soon.

    :raises ClauseViolated: it did not; the text is the sentence.
    """
    with anyio.move_on_after(2 * harness.lease + harness.timeout):
        while True:
            found = true()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await anyio.sleep(0.01)
    raise ClauseViolated(sentence)
