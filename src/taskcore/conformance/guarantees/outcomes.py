"""Checks of outcomes: cancelled, expired, retried in time, and never changed afterwards."""

from __future__ import annotations

from contextlib import suppress

import anyio

from taskcore.conformance.checks import APP_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.crash_here import dying_at
from taskcore.conformance.guarantees.deliveries import CLOCK_TOLERANCE
from taskcore.conformance.guarantees.helpers import (
    letters_of,
    open_app,
    outcome_of,
    take,
    take_nothing,
    until,
    work,
    working,
)
from taskcore.conformance.harness import Harness
from taskcore.control import RetryLater, Snooze
from taskcore.errors import EnqueueRefused, EnqueueUncertain, WrongTask
from taskcore.policy import Retry
from taskcore.results import Cancelled, Expired, Succeeded
from taskcore.router import Router
from taskcore.worker.context import current


@check(APP_CHECKS, "C14", "C18", needs=("remove", "delay"), store=True)
async def a_cancelled_job_never_starts(harness: Harness) -> None:
    """A job cancelled while ready, scheduled or between two attempts never starts, and is recorded as cancelled."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("work"), queue=queue, retry=Retry(attempts=9, base=harness.lease / 2, jitter="none"))
    async def work_once() -> None:
        starts.append(current().job_id)
        raise ConnectionError("not now")

    app = await open_app(harness, router)
    retried = await work_once.enqueue()
    await work(harness, await harness.step_worker(app, lease=harness.long))
    ready, scheduled = await work_once.enqueue(), await work_once.using(delay=harness.lease / 2).enqueue()
    for job, what in ((ready, "ready"), (scheduled, "scheduled"), (retried, "between two attempts")):
        require(await job.cancel(), f"a job that is {what} could not be cancelled")
        require(await job.status() == "cancelled", f"a job that was cancelled while {what} is {await job.status()}")
        require(not await job.cancel(), f"a job that was cancelled while {what} was cancelled again")
    async with working(harness, app):
        await harness.outlast(harness.lease)
        for job in (ready, scheduled, retried):
            ended = await outcome_of(harness, job)
            require(ended == Cancelled(), f"a cancelled job ended as {ended}")
    require(starts == [retried.id], "a cancelled job started")
    require(app.counters["job.cancelled"] == 3, f"three were cancelled, {app.counters['job.cancelled']} were counted")


@check(APP_CHECKS, "C14", "C18", store=True)
async def a_job_starts_or_is_cancelled_never_both(harness: Harness) -> None:
    """A job that is cancelled while a worker receives it either starts or is cancelled, as its caller was answered."""
    router, queue = Router(), harness.queue()
    starts: set[str] = set()

    @router.task(name=harness.name("work"), queue=queue)
    async def quick() -> int:
        starts.add(current().job_id)
        return 1

    app, _ = await open_app(harness, router), await open_app(harness, router)
    jobs = await app.enqueue_many(quick.call() for _ in range(40))
    cancelled: set[str] = set()
    async with working(harness, app, concurrency=2):
        for job in reversed(jobs):
            if await job.cancel():  # through the other app, which included the tasks last
                cancelled.add(job.id)
            await anyio.lowlevel.checkpoint()
        for job in jobs:
            ended = await outcome_of(harness, job)
            wanted = Cancelled() if job.id in cancelled else Succeeded(1)
            told = "was told to be cancelled" if job.id in cancelled else "could not be cancelled"
            tombstone = ended == Cancelled() and job.id not in starts
            require(ended == wanted or tombstone, f"a job that {told} ended as {ended}")
    require(not cancelled & starts, f"{len(cancelled & starts)} jobs started after their cancellation was confirmed")


@check(APP_CHECKS, "C14", store=True)
async def a_running_job_sees_the_cancel_request(harness: Harness) -> None:
    """Cancelling a running job returns False; the job can see the request and decides whether to stop."""
    router, queue = Router(), harness.queue()
    seen: list[bool] = []
    asked = anyio.Event()

    @router.task(name=harness.name("work"), queue=queue)
    async def patient() -> str:
        seen.append(await current().cancel_requested())
        await asked.wait()
        seen.append(await current().cancel_requested())
        return "done"

    app = await open_app(harness, router)
    async with working(harness, app):
        job = await patient.enqueue()
        await until(harness, lambda: seen, "a job did not start")
        require(not await job.cancel(), "a running job was said to be kept from starting")
        asked.set()
        require(await outcome_of(harness, job) == Succeeded("done"), "a job that went on has another outcome")
    require(seen == [False, True], f"before and after the wish the job saw {seen}")


@check(APP_CHECKS, "C18", "C10", store=True)
async def an_id_belongs_to_its_task(harness: Harness) -> None:
    """An id that one task's job has is refused for another task, whose callers learn nothing of that job."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("charge"), queue=queue)
    async def charge() -> str:
        return "charged"

    @router.task(name=harness.name("refund"), queue=queue)
    async def refund() -> str:
        return "refunded"

    app = await open_app(harness, router)
    waiting = await charge.using(id=f"{queue}.waiting").enqueue()
    for repeat in (refund.using(id=waiting.id), refund.using(id=waiting.id, key="k")):
        try:
            await repeat.enqueue()
        except WrongTask:
            continue
        raise ClauseViolated("the id of a job that waits was taken for a job of another task")
    require(await charge.using(id=waiting.id).enqueue() == waiting, "an id was refused to its own task")
    job = await charge.enqueue()
    handles = [refund.job(job.id, queue=queue)]
    if harness.features.dedup != "absent":  # elsewhere either of the two may run first
        handles.append(await refund.using(id=job.id).enqueue())
    async with working(harness, app):
        require(await outcome_of(harness, job) == Succeeded("charged"), "a job whose id was used again ended otherwise")
        with suppress(WrongTask):
            handles.append(await refund.using(id=job.id).enqueue())
        await app.drain(queue, timeout=harness.lease + harness.timeout)
        for handle in handles:
            for ask in (handle.outcome, handle.status, handle.cancel):
                try:
                    answer = await ask()
                except WrongTask:
                    continue
                raise ClauseViolated(f"the job of another task was answered for: {answer}")
        require(await job.result() == "charged", "a job of another task has changed the outcome of an id")


@check(APP_CHECKS, "C14", "C1", store=True)
async def an_interrupted_cancel_loses_no_job(harness: Harness) -> None:
    """A caller killed after the tombstone and before the removal leaves a job that runs or is cancelled, never lost."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("work"), queue=queue)
    async def simple() -> int:
        return 1

    app = await open_app(harness, router)
    job = await simple.enqueue()
    with dying_at("cancel.marked"):
        await job.cancel()
    async with working(harness, app):
        ended = await outcome_of(harness, job)
    require(ended in {Succeeded(1), Cancelled()}, f"after an interrupted cancellation the job ended as {ended}")


@check(APP_CHECKS, "C14", "C1", "C18", needs=("remove", "locate"), store=True)
async def an_interrupted_cancel_can_be_repeated(harness: Harness) -> None:
    """When a caller crashes between removal and record, the next cancellation succeeds."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("work"), queue=queue)
    async def simple() -> int:
        return 1

    app = await open_app(harness, router)
    job = await simple.enqueue()
    with dying_at("cancel.removed"):
        await job.cancel()
    require(await job.cancel(), "a job that was removed by a caller that died then can neither run nor be cancelled")
    ended = await outcome_of(harness, job)
    require(ended == Cancelled(), f"after a repeated cancellation the job ended as {ended}")
    await take_nothing(harness, await harness.step_worker(app), "a job whose cancellation was confirmed")


@check(APP_CHECKS, "C15", "C19", store=True)
async def nothing_starts_after_its_deadline(harness: Harness) -> None:
    """A job whose deadline passed while it waited does not start; it is recorded and counted as expired."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []
    heard: list[str] = []

    @router.task(name=harness.name("work"), queue=queue)
    async def brief() -> None:
        starts.append(current().job_id)

    app = await open_app(harness, router)
    app.on_event(lambda event: heard.append(event.facts["job_id"]) if event.name == "job.expired" else None)
    late = await brief.using(expires=harness.lease / 2).enqueue()
    fine = await brief.using(expires=harness.long).enqueue()
    await harness.outlast(harness.lease / 2)
    async with working(harness, app):
        require(await outcome_of(harness, late) == Expired(), f"a job after its deadline is {await late.status()}")
        require(
            await outcome_of(harness, fine) == Succeeded(None), f"a job before its deadline is {await fine.status()}"
        )
    require(starts == [fine.id], "a job started after its deadline")
    require((app.counters["job.expired"], heard) == (1, [late.id]), "an expired job was not reported")


@check(APP_CHECKS, "C15", "C17", needs="delay", store=True)
async def a_deadline_holds_between_attempts(harness: Harness) -> None:
    """A deadline that passes while a job waits for a retry or a delay keeps the job from starting again."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("work"), queue=queue, retry=Retry(attempts=5, base=harness.lease, jitter="none"))
    async def failing() -> None:
        starts.append(current().job_id)
        raise ConnectionError("not now")

    app = await open_app(harness, router)
    async with working(harness, app):
        retried = await failing.using(expires=harness.lease * 0.6 + harness.margin).enqueue()
        await until(harness, lambda: starts, "a job before its deadline did not start")
        scheduled = await failing.using(delay=harness.lease, expires=harness.lease / 2).enqueue()
        for job in (scheduled, retried):
            ended = await outcome_of(harness, job)
            require(ended == Expired(), f"a job whose deadline passed while it waited ended as {ended}")
    require(scheduled.id not in starts, "a job was scheduled beyond its deadline and started")


@check(APP_CHECKS, "C17", "C3", needs="delay")
async def retries_follow_the_policy(harness: Harness) -> None:
    """Each retry starts no earlier than its policy says, or than the function asks for (RetryLater, Snooze)."""
    router, queue = Router(), harness.queue()
    unit, starts = harness.lease / 4, list[float]()
    policy = Retry(attempts=4, base=unit, factor=2.0, jitter="none")
    waits = [unit, 1.5 * unit, 0.5 * unit, 4 * unit]

    @router.task(name=harness.name("work"), queue=queue, retry=policy)
    async def failing() -> None:
        starts.append(anyio.current_time())
        if len(starts) == 2:
            raise RetryLater(waits[1])
        if len(starts) == 3:
            raise Snooze(waits[2])
        if len(starts) < 5:
            raise ConnectionError("not now")

    app = await open_app(harness, router)
    await failing.enqueue()
    async with working(harness, app):
        await until(harness, lambda: len(starts) == 5, "a job that failed was not tried again")
    for wait, before, after in zip(waits, starts, starts[1:], strict=False):
        early = wait - harness.features.delay_error - (after - before)
        require(early <= CLOCK_TOLERANCE, f"a retry started {early:.3f} s before its wait of {wait:g} s was over")


@check(APP_CHECKS, "C18", "C2", needs="dedup", store=True)
async def an_outcome_never_changes(harness: Harness) -> None:
    """Repeating the enqueue of an ended job starts nothing and does not change its outcome."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("work"), queue=queue)
    async def count() -> int:
        starts.append(current().job_id)
        return len(starts)

    app = await open_app(harness, router)
    step_worker = await harness.step_worker(app, lease=harness.long)
    job = await count.enqueue()
    await work(harness, step_worker)
    for _ in range(2):
        try:
            again = await count.using(id=job.id).enqueue()
        except (EnqueueRefused, EnqueueUncertain) as error:
            raise ClauseViolated(f"repeating an enqueue with its id failed: {error.what}") from error
        require(again.id == job.id, "repeating an enqueue with its id made another job")
    require(not await job.cancel(), "a job that has ended was cancelled")
    require(await step_worker.take(within=harness.margin + 0.1) is None, "a job that has ended was handed out again")
    require(await outcome_of(harness, job) == Succeeded(1), "the outcome of a job changed")
    require(app.counters["job.duplicate"] == 2, "repeated enqueues were not counted")


@check(APP_CHECKS, "C7", "C18", needs="fencing", store=True)
async def a_late_outcome_is_rejected(harness: Harness) -> None:
    """A stalled worker that lost its lease and settles a failure late does not change the current holder's outcome."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("work"), queue=queue, retry=None)
    async def fails_first() -> int:
        starts.append(current().job_id)
        if len(starts) == 1:
            raise ConnectionError("the first holder's trouble")
        return len(starts)

    app, other = await open_app(harness, router), await open_app(harness, router)
    job = await fails_first.enqueue()
    late, successor = await harness.step_worker(app), await harness.step_worker(other, lease=harness.long)
    conclusion = await late.perform(await take(harness, late))
    require(conclusion is not None, "a first start came to nothing")
    taken = await take(harness, successor)
    if conclusion is not None:
        require(not await late.settle(conclusion), "a verdict under a lost lease was carried out")
    require(await successor.work(taken), "the successor's lease was lost although it settled in time")
    ended = await outcome_of(harness, job)
    require(ended == Succeeded(2), f"a late worker's outcome stood: {ended}")
    require(await letters_of(app, queue) == [], "a job that succeeded has a dead letter")


@check(APP_CHECKS, "C16", "C1", needs="delay")
async def a_delayed_call_starts_on_time(harness: Harness) -> None:
    """A delayed call starts once, after its delay, even if its worker connects later."""
    router, queue = Router(), harness.queue()
    starts: list[float] = []

    @router.task(name=harness.name("work"), queue=queue)
    async def later() -> None:
        starts.append(anyio.current_time())

    app = await open_app(harness, router)
    asked = anyio.current_time()
    await later.using(delay=harness.lease).enqueue()
    step_worker = await harness.step_worker(app, lease=harness.long)
    require(await step_worker.work(await take(harness, step_worker)), "a lease was lost although it had not run out")
    late = starts[0] - asked - harness.lease
    error = harness.features.delay_error
    require(
        -error - CLOCK_TOLERANCE <= late <= error + harness.margin + CLOCK_TOLERANCE,
        f"a delayed call started {late:+.3f} s beside its time",
    )
    await take_nothing(harness, step_worker, "a delayed call that has ended")
