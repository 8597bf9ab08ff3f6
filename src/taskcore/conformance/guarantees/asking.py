"""Checks of questions: each broker and store answers them as the in-memory ones do."""

from __future__ import annotations

from typing import Any

from taskcore.conformance.checks import APP_CHECKS, check, require
from taskcore.conformance.guarantees.helpers import open_app, outcome_of, until, working
from taskcore.conformance.harness import Harness
from taskcore.errors import LetterNotFound, ResultTimeout
from taskcore.results import Dead, JobOutcome, Succeeded
from taskcore.router import Router
from taskcore.task import Job

TINY = 1e-6  #: seconds: less than any answer of a server takes


@check(APP_CHECKS, "C18", "C22", store=True)
async def an_ended_job_can_be_polled(harness: Harness) -> None:
    """A wait of no time, or of next to none, returns the outcome of a job that has ended, and else times out."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("none"), queue=queue)
    async def gives_none() -> None: ...

    @router.task(name=harness.name("fails"), queue=queue, retry=None)
    async def fails() -> int:
        raise ConnectionError("not now")

    app = await open_app(harness, router)
    waiting, failing = await gives_none.enqueue(), await fails.enqueue()
    for timeout in (0, 0.0, TINY):
        require(await polled(waiting, timeout) is None, f"a job that has not run has an outcome after {timeout:g} s")
    async with working(harness, app):
        for job in (waiting, failing):
            await outcome_of(harness, job)
    for timeout in (0, 0.0, TINY):
        told = await polled(waiting, timeout)
        require(told == Succeeded(None), f"after {timeout:g} s a job that returned None has the outcome {told}")
        require(isinstance(await polled(failing, timeout), Dead), f"after {timeout:g} s a dead job has no outcome")
    require(await polled(gives_none.job(harness.name("unsent")), 0) is None, "a job that was never sent has an outcome")


@check(APP_CHECKS, "C19", store=True)
async def counters_agree_with_outcomes(harness: Harness) -> None:
    """When the outcomes of all jobs are known, the counters of the worker say how many there were of each kind."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("work"), queue=queue, retry=None)
    async def work(number: int) -> int:
        return 1 // number

    app = await open_app(harness, router)
    async with working(harness, app):
        jobs = await app.enqueue_many(work.call(number % 4) for number in range(20))
        for job in jobs:
            await outcome_of(harness, job)
        counted = (app.counters["job.succeeded"], app.counters["job.buried"])
        require(counted == (15, 5), f"15 jobs have succeeded and 5 are dead; the counters say {counted}")


@check(APP_CHECKS, "C22", store=True)
async def what_does_not_exist_has_an_answer(harness: Harness) -> None:
    """Unknown queues are empty, unknown jobs are unknown and cannot be cancelled, unknown letters are not found."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("work"), queue=queue)
    async def work() -> None: ...

    app = await open_app(harness, router)
    stats = await app.stats(queue)
    zeros = (stats.ready, stats.leased, stats.scheduled, stats.dead, stats.oldest)
    told = 0 if harness.features.counts != "absent" else None
    require(zeros == (0, told, told, 0, None), f"a queue that does not exist has {zeros}")
    require(await app.purge(queue) == 0, "something was purged from a queue that does not exist")
    require(await app.dead_letters.count(queue) == 0, "a queue that does not exist has dead letters")
    await app.drain(queue, timeout=harness.timeout)
    require(await app.enqueue_many([]) == [], "sending no calls gives jobs")
    unknown = work.job(harness.name("unsent"))
    status = await unknown.status()
    require(status == "unknown", f"the status of a job that was never sent is {status}")
    require(not await unknown.cancel(), "a job that was never sent was cancelled")
    for ask in (app.dead_letters.get, app.dead_letters.drop, app.dead_letters.replay):
        try:
            await ask(f"{queue}.none")
        except LetterNotFound:
            continue
        require(False, "a dead letter that does not exist was found")  # noqa: FBT003 - the sentence is what counts


@check(APP_CHECKS, "C16", needs=("locate", "delay"), store=True)
async def statuses_are_the_same_words(harness: Harness) -> None:
    """A job is queued, scheduled, running, and succeeded or dead, in the same words on every broker."""
    router, queue, others = Router(), harness.queue(), harness.queue("others")

    @router.task(name=harness.name("work"), queue=queue, retry=None)
    async def work(*, fails: bool = False) -> str:
        if fails:
            raise ConnectionError("not now")
        return await first.status()

    app = await open_app(harness, router)
    first, failing = await work.enqueue(), await work.enqueue(fails=True)
    later = await work.using(delay=harness.long, queue=others).enqueue()
    require(await first.status() == "queued", f"a job that waits is {await first.status()}")
    require(await later.status() == "scheduled", f"a job that is delayed is {await later.status()}")
    async with working(harness, app):
        told = await outcome_of(harness, first)
        require(told == Succeeded("running"), f"a job that runs saw itself as {told}")
        await outcome_of(harness, failing)
    words = [await job.status() for job in (first, failing)]
    require(words == ["succeeded", "dead"], f"a job that succeeded and one that died are {words}")
    await until(harness, later.cancel, "a delayed job could not be cancelled")


async def polled(job: Job[Any], timeout: float) -> JobOutcome[Any] | None:
    """Return how a job ended; None if a wait of so many seconds does not learn it."""
    try:
        return await job.outcome(timeout=timeout)
    except ResultTimeout:
        return None
