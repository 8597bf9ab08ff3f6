"""Checks of jobs that may run at most once: the broker forgets them first, and none is lost on the way to its start."""

from __future__ import annotations

from collections.abc import Callable

from taskcore.backend import Backend
from taskcore.conformance.checks import WORKER_CHECKS, check, require
from taskcore.conformance.guarantees.crash_here import dying_at
from taskcore.conformance.guarantees.helpers import open_app, take, take_nothing, until, working
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.faults import FlakyBackend, LateReply
from taskcore.router import Router
from taskcore.worker.context import current


@check(WORKER_CHECKS, "C9", "C3")
async def an_at_most_once_job_starts_at_most_once(harness: Harness) -> None:
    """An at-most-once job is acknowledged before it starts, so neither an error nor a crash runs it again."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("once"), queue=queue, delivery="at_most_once", retry=5)
    async def once(*, fails: bool) -> None:
        starts.append(current().job_id)
        if fails:
            raise ConnectionError("not now")

    app = await open_app(harness, router)
    async with StepWorker(app, [queue], lease=harness.lease) as step_worker:
        for fails in (False, True):
            await once.enqueue(fails=fails)
            await step_worker.work(await take(harness, step_worker))
    for name in ("once.forgotten", "run.returned"):
        await once.enqueue(fails=False)
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            taken = await take(harness, dying)
            with dying_at(name):
                await dying.perform(taken)
    await take_nothing(harness, await harness.step_worker(app), "a job that may run at most once")
    require(len(set(starts)) == len(starts), "a job that may run at most once started twice")
    require(len(starts) == 3, f"three of four jobs had to start, {len(starts)} did")


@check(WORKER_CHECKS, "C9", "C1")
async def an_at_most_once_job_survives_its_acknowledgement(harness: Harness) -> None:
    """A job that may run at most once starts, though leases are extended before the broker has answered."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []
    flaky: list[FlakyBackend] = []

    @router.task(name=harness.name("once"), queue=queue, delivery="at_most_once")
    async def once(number: int) -> None:
        starts.append(number)

    app = await open_app(harness, router, around=_flaky_in(flaky))
    flaky[0].always("settle", LateReply(harness.lease))
    async with working(harness, app, concurrency=4):
        await app.enqueue_many(once.call(number) for number in range(4))
        await until(harness, lambda: len(starts) >= 4, "a job was forgotten by the broker and never started")
    require(sorted(starts) == [0, 1, 2, 3], f"jobs that may run at most once started like this: {starts}")


@check(WORKER_CHECKS, "C9", "C21")
async def a_shutdown_waits_for_a_job_that_is_being_acknowledged(harness: Harness) -> None:
    """A worker that stops while the broker is asked to forget a job runs that job: no other worker can get it."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []
    flaky: list[FlakyBackend] = []

    @router.task(name=harness.name("once"), queue=queue, delivery="at_most_once")
    async def once() -> None:
        starts.append(current().job_id)

    app = await open_app(harness, router, around=_flaky_in(flaky))
    flaky[0].always("settle", LateReply(0.5))
    async with working(harness, app):
        await once.enqueue()
        await until(harness, lambda: flaky[0].calls["settle"], "a job was not received")
    await take_nothing(harness, await harness.step_worker(app), "a job that may run at most once")
    require(len(starts) == 1, f"a job that the broker had forgotten started {len(starts)} times")


def _flaky_in(found: list[FlakyBackend]) -> Callable[[Backend], Backend]:
    """Return what puts faults around a backend, and it into a list."""

    def around(backend: Backend) -> Backend:
        found.append(FlakyBackend(backend))
        return found[-1]

    return around
