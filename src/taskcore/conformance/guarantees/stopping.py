"""Checks of leaving: a worker that stops starts nothing more, and work that is done leaves nothing behind."""

from __future__ import annotations

import anyio

from taskcore.conformance.checks import APP_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.helpers import open_app, outcome_of, take, take_nothing, until, working
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.envelope import decode_trail
from taskcore.policy import Retry
from taskcore.records.names import is_start_name
from taskcore.results import Succeeded
from taskcore.router import Router
from taskcore.task import Job
from taskcore.worker.context import current


@check(APP_CHECKS, "C21", "C5", "C7")
async def an_interrupted_job_uses_no_attempt(harness: Harness) -> None:
    """A job that runs when the grace period ends goes soon to others, uses no attempt, and has a higher fence there."""
    router, queue = Router(), harness.queue()
    starts: list[tuple[int, int]] = []
    fences: list[int] = []

    @router.task(name=harness.name("work"), queue=queue, retry=None, crashes=2)
    async def endless() -> None:
        starts.append((current().attempt, current().crashes))
        fences.append(current().fence)
        if len(starts) == 1:
            await anyio.sleep(harness.long)

    app, other = await open_app(harness, router), await open_app(harness, router)
    async with working(harness, app, grace=0.0):
        await endless.enqueue()
        await until(harness, lambda: starts, "a job did not start")
    async with StepWorker(other, [queue], lease=harness.long) as step_worker:
        taken = await step_worker.take(within=1.0 + harness.margin)
        if taken is None:
            raise ClauseViolated("a job that was interrupted was not visible to others within a second")
        trail = decode_trail(taken.delivery.trail)
        require((trail.attempts, trail.crashes) == (0, 0), "an interruption was counted as an attempt or a crash")
        require(taken.delivery.redeliveries == 0, "an interruption was counted as a redelivery")
        require(await step_worker.work(taken), "a lease was lost although it had not run out")
    require(starts == [(1, 0), (1, 0)], f"attempts and crashes at the two starts were {starts}")
    require(fences[0] < fences[1], f"what the first start left behind may have the fence of the second one: {fences}")
    require(app.counters["job.released"] == 1, "giving back was not counted")


@check(APP_CHECKS, "C21")
async def no_job_starts_after_the_signal(harness: Harness) -> None:
    """A stopping worker finishes its running jobs and starts none; its waiting jobs go to other workers at once."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []
    done: list[int] = []
    leaving, finish = anyio.Event(), anyio.Event()

    @router.task(name=harness.name("work"), queue=queue)
    async def slow(number: int) -> None:
        starts.append(number)
        if number == 0:
            await finish.wait()
        done.append(number)

    app, other = await open_app(harness, router), await open_app(harness, router)

    async def send_more() -> None:
        await leaving.wait()
        for number in (3, 4):
            await other.send(slow.call(number))
        await harness.sleep(0.3)
        finish.set()

    async with anyio.create_task_group() as group:
        group.start_soon(send_more)
        async with working(harness, app, concurrency=1):
            await slow.enqueue(0)
            await until(harness, lambda: starts, "a job did not start")
            await app.enqueue_many(slow.call(number) for number in (1, 2))
            leaving.set()
    require(starts == [0], f"a worker that was told to stop started {len(starts) - 1} more jobs")
    require(done == [0], "a worker that was told to stop did not finish what ran")
    async with StepWorker(other, [queue], lease=harness.long) as step_worker:
        began = anyio.current_time()
        for _ in range(4):
            taken = await step_worker.take(within=1.0 + harness.margin)
            if taken is None:
                raise ClauseViolated("a job that waited at the shutdown was not visible to others within a second")
            require(taken.delivery.redeliveries == 0, "waiting at a shutdown was counted as a redelivery")
            require(await step_worker.work(taken), "a lease was lost although it had not run out")
        require(anyio.current_time() - began <= 1.0 + 4 * harness.margin, "jobs that waited at the shutdown came late")
    require(sorted(done) == [0, 1, 2, 3, 4], f"after a shutdown these jobs were done: {sorted(done)}")


@check(APP_CHECKS, "C21", "C22")
async def an_idle_worker_stops_at_once(harness: Harness) -> None:
    """A worker that waits for work stops at the first signal, without delay."""
    router = Router()

    @router.task(name=harness.name("work"), queue=harness.queue())
    async def nothing() -> None: ...

    app = await open_app(harness, router)
    began = anyio.current_time()
    with anyio.move_on_after(harness.timeout) as limit:
        async with working(harness, app):
            await harness.sleep(0.1)
            began = anyio.current_time()
    require(not limit.cancelled_caught, "an idle worker did not stop")
    seconds = anyio.current_time() - began
    require(seconds <= 1.0 + harness.margin, f"an idle worker took {seconds:.1f} s to stop")


@check(APP_CHECKS, "C23", needs=("survives_worker", "delay"), store=True)
async def every_record_expires(harness: Harness) -> None:
    """Every record has a time to live, and start markers are deleted when jobs end."""
    router, queue = Router(), harness.queue()
    seen: list[str] = []

    @router.task(name=harness.name("work"), queue=queue, key="number", retry=Retry(attempts=2, base=0.0))
    async def mixed(number: int) -> int:
        seen.append(current().job_id)
        if number % 2 and seen.count(current().job_id) == 1:
            raise ConnectionError("once")
        return number

    app = await open_app(harness, router)
    sent: list[Job[int]] = [await mixed.enqueue(number) for number in range(4)]
    async with StepWorker(app, [queue], lease=harness.lease) as dying:
        await dying.perform(await take(harness, dying))
    async with working(harness, app):
        for one in sent:
            await outcome_of(harness, one)
        if harness.features.remove != "absent":
            later = await mixed.using(delay=harness.long).enqueue(99)
            require(await later.cancel(), "a scheduled job could not be cancelled")
        await app.drain(queue, timeout=harness.timeout)
    store = await harness.store()
    standing = {key: keep for key, keep in harness.written.items() if await store.get(key) is not None}
    forever = [key for key, keep in standing.items() if keep is None]
    require(standing, "this check is wrong: work with keys and results left no record")
    require(not forever, f"these records have no end: {forever}")
    require(not [key for key in standing if is_start_name(key)], "markers of starts stay when their jobs have ended")


@check(APP_CHECKS, "C23", store=True)
async def storage_returns_to_its_baseline(harness: Harness) -> None:
    """When all jobs have ended and results and keys have expired, queue and store hold nothing of them."""
    router, queue, keep = Router(), harness.queue(), 1.0 + harness.margin

    @router.task(name=harness.name("work"), queue=queue, key="number", key_window=keep, keep_result=keep)
    async def double(number: int) -> int:
        return number * 2

    app = await open_app(harness, router, keep_result=keep)
    async with working(harness, app):
        jobs = await app.enqueue_many(double.call(number) for number in range(20))
        for number, sent in enumerate(jobs):
            require(await outcome_of(harness, sent) == Succeeded(number * 2), "a result was gone before its time")
    step_worker = await harness.step_worker(app)
    await take_nothing(harness, step_worker, "after all work was done")
    stats = await app.stats(queue)
    require(not stats.unfinished + stats.dead, f"all work is done, its queue counts {stats}")
    await harness.outlast(keep)
    store = await harness.store()
    left = [key for key in harness.written if await store.get(key) is not None]
    require(not left, f"after their time {len(left)} records are still there, such as {left[:3]}")
