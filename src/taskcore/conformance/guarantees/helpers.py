"""What checks through an app share: tasks of the stage's own, workers that take, die and take over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from taskcore.app import App
from taskcore.conformance.checks import ClauseViolated, require
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.deadletter import DeadLetter
from taskcore.errors import ResultTimeout
from taskcore.results import JobOutcome
from taskcore.router import Router
from taskcore.task import Job as Sent
from taskcore.worker.execution import Execution

__all__ = ["crew", "die_holding", "letters_of", "outcome_of", "take", "take_nothing", "until", "work", "working"]


async def crew(stage: Harness, router: Router, **settings: Any) -> App:
    """An open app with these tasks, on connections of its own."""
    app = await stage.app(**settings)
    app.include(router)
    return app


async def take(stage: Harness, hands: StepWorker) -> Execution:
    """The next job, which may still be in the hands of somebody who died.

    :raises Broken: there is none.
    """
    within = stage.lease + stage.patience
    job = await hands.take(within=within)
    if job is None:
        raise ClauseViolated(f"no job came within {within:.1f} s")
    return job


async def take_nothing(stage: Harness, hands: StepWorker, why: str) -> None:
    """There must be no job, not even after every lease has run out."""
    job = await hands.take(within=stage.beyond)
    if job is not None:
        raise ClauseViolated(f"{why}: a job was handed out with {job.delivery.redeliveries} redeliveries")


async def work(stage: Harness, hands: StepWorker) -> Execution:
    """Take the next job, perform and settle it.

    :raises Broken: there is none, or its lease was lost.
    """
    job = await take(stage, hands)
    require(await hands.work(job), "the lease of a job was lost although it was settled in time")
    return job


async def die_holding(stage: Harness, app: App, *queues: str, performed: bool = True) -> Execution:
    """A worker takes a job, performs it or not, and is gone before anything is written."""
    async with StepWorker(app, queues or (stage.queue(),), name="the dead") as hands:
        job = await take(stage, hands)
        if performed:
            await hands.perform(job)
        return job


@asynccontextmanager
async def working(stage: Harness, app: App, *queues: str, **options: Any) -> AsyncIterator[App]:
    """The app with a real worker on the stage's queue, or on those named."""
    async with app.running(queues=queues or (stage.queue(),), **{"grace": stage.patience, **options}):
        yield app


async def outcome_of(stage: Harness, job: Sent[Any]) -> JobOutcome[Any]:
    """How a job ended.

    :raises Broken: it did not end in time.
    """
    try:
        return await job.outcome(timeout=2 * stage.lease + stage.patience)
    except ResultTimeout as error:
        raise ClauseViolated(f"a job did not end: {'; '.join((error.what, *error.facts))}") from error


async def letters_of(app: App, queue: str) -> list[DeadLetter]:
    """All dead letters of a queue."""
    return [letter async for letter in app.dead_letters.read(queue)]


async def until(stage: Harness, true: Callable[[], object | Awaitable[object]], sentence: str) -> None:
    """It has to become true soon.

    :raises Broken: it did not; the text is the sentence.
    """
    with anyio.move_on_after(2 * stage.lease + stage.patience):
        while True:
            found = true()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await anyio.sleep(0.01)
    raise ClauseViolated(sentence)
