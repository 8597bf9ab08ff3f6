"""Checks of leaving: a worker that stops starts nothing more, and work that is done leaves nothing behind."""

from __future__ import annotations

import anyio

from taskcore.conformance.checks import APP_CHECKS, ClauseViolated, check, require
from taskcore.conformance.guarantees.helpers import crew, outcome_of, take, take_nothing, until, working
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.envelope import decode_trail
from taskcore.policy import Retry
from taskcore.records.names import is_start_name
from taskcore.results import Succeeded
from taskcore.router import Router
from taskcore.task import Job
from taskcore.worker.context import current


@check(APP_CHECKS, "C21", "C5")
async def interrupted_work_costs_nothing(stage: Harness) -> None:
    """What runs when the grace is over is interrupted and visible to others within a second, its budget untouched."""
    router, queue = Router(), stage.queue()
    starts: list[tuple[int, int]] = []

    @router.task(name=stage.name("work"), queue=queue, retry=None, crashes=2)
    async def endless() -> None:
        starts.append((current().attempt, current().crashes))
        if len(starts) == 1:
            await anyio.sleep(stage.long)

    app, other = await crew(stage, router), await crew(stage, router)
    async with working(stage, app, grace=0.0):
        await endless.enqueue()
        await until(stage, lambda: starts, "a job did not start")
    async with StepWorker(other, [queue], lease=stage.long) as hands:
        taken = await hands.take(within=1.0 + stage.margin)
        if taken is None:
            raise ClauseViolated("a job that was interrupted was not visible to others within a second")
        trail = decode_trail(taken.delivery.trail)
        require((trail.attempts, trail.crashes) == (0, 0), "an interruption was counted as an attempt or a crash")
        require(taken.delivery.redeliveries == 0, "an interruption was counted as a redelivery")
        require(await hands.work(taken), "a lease was lost although it had not run out")
    require(starts == [(1, 0), (1, 0)], f"attempts and crashes at the two starts were {starts}")
    require(app.counters["job.released"] == 1, "giving back was not counted")


@check(APP_CHECKS, "C21")
async def after_the_signal_nothing_starts(stage: Harness) -> None:
    """A worker that was told to stop finishes what runs and starts nothing; what waits goes to others at once."""
    router, queue = Router(), stage.queue()
    starts: list[int] = []
    done: list[int] = []
    leaving, finish = anyio.Event(), anyio.Event()

    @router.task(name=stage.name("work"), queue=queue)
    async def slow(number: int) -> None:
        starts.append(number)
        if number == 0:
            await finish.wait()
        done.append(number)

    app, other = await crew(stage, router), await crew(stage, router)

    async def send_more() -> None:
        await leaving.wait()
        for number in (3, 4):
            await other.send(slow.call(number))
        await stage.sleep(0.3)
        finish.set()

    async with anyio.create_task_group() as group:
        group.start_soon(send_more)
        async with working(stage, app, concurrency=1):
            await slow.enqueue(0)
            await until(stage, lambda: starts, "a job did not start")
            await app.enqueue_many(slow.call(number) for number in (1, 2))
            leaving.set()
    require(starts == [0], f"a worker that was told to stop started {len(starts) - 1} more jobs")
    require(done == [0], "a worker that was told to stop did not finish what ran")
    async with StepWorker(other, [queue], lease=stage.long) as hands:
        began = anyio.current_time()
        for _ in range(4):
            taken = await hands.take(within=1.0 + stage.margin)
            if taken is None:
                raise ClauseViolated("a job that waited at the shutdown was not visible to others within a second")
            require(taken.delivery.redeliveries == 0, "waiting at a shutdown was counted as a redelivery")
            require(await hands.work(taken), "a lease was lost although it had not run out")
        require(anyio.current_time() - began <= 1.0 + 4 * stage.margin, "jobs that waited at the shutdown came late")
    require(sorted(done) == [0, 1, 2, 3, 4], f"after a shutdown these jobs were done: {sorted(done)}")


@check(APP_CHECKS, "C21", "C22")
async def an_idle_worker_stops_at_once(stage: Harness) -> None:
    """A worker that waits for work ends when it is told to, and holds nobody up at the door."""
    router = Router()

    @router.task(name=stage.name("work"), queue=stage.queue())
    async def nothing() -> None: ...

    app = await crew(stage, router)
    began = anyio.current_time()
    with anyio.move_on_after(stage.patience) as limit:
        async with working(stage, app):
            await stage.sleep(0.1)
            began = anyio.current_time()
    require(not limit.cancelled_caught, "an idle worker did not stop")
    seconds = anyio.current_time() - began
    require(seconds <= 1.0 + stage.margin, f"an idle worker took {seconds:.1f} s to stop")


@check(APP_CHECKS, "C23", needs=("survives_worker", "delay"), store=True)
async def every_record_has_an_end(stage: Harness) -> None:
    """Whatever work leaves in the store has a time to live, and markers of starts are cleared when jobs end."""
    router, queue = Router(), stage.queue()
    seen: list[str] = []

    @router.task(name=stage.name("work"), queue=queue, key="number", retry=Retry(attempts=2, base=0.0))
    async def mixed(number: int) -> int:
        seen.append(current().job_id)
        if number % 2 and seen.count(current().job_id) == 1:
            raise ConnectionError("once")
        return number

    app = await crew(stage, router)
    sent: list[Job[int]] = [await mixed.enqueue(number) for number in range(4)]
    async with StepWorker(app, [queue], lease=stage.lease) as dying:
        await dying.perform(await take(stage, dying))
    async with working(stage, app):
        for one in sent:
            await outcome_of(stage, one)
        if stage.features.remove != "absent":
            later = await mixed.using(delay=stage.long).enqueue(99)
            require(await later.cancel(), "a scheduled job could not be cancelled")
        await app.drain(queue, timeout=stage.patience)
    store = await stage.store()
    standing = {key: keep for key, keep in stage.written.items() if await store.get(key) is not None}
    forever = [key for key, keep in standing.items() if keep is None]
    require(standing, "this check is wrong: work with keys and results left no record")
    require(not forever, f"these records have no end: {forever}")
    require(not [key for key in standing if is_start_name(key)], "markers of starts stay when their jobs have ended")


@check(APP_CHECKS, "C23", store=True)
async def storage_returns_to_its_baseline(stage: Harness) -> None:
    """When work is done and the times of results and keys are over, neither queue nor store holds anything of it."""
    router, queue, keep = Router(), stage.queue(), 1.0 + stage.margin

    @router.task(name=stage.name("work"), queue=queue, key="number", key_window=keep, keep_result=keep)
    async def double(number: int) -> int:
        return number * 2

    app = await crew(stage, router, keep_result=keep)
    async with working(stage, app):
        jobs = await app.enqueue_many(double.call(number) for number in range(20))
        for number, sent in enumerate(jobs):
            require(await outcome_of(stage, sent) == Succeeded(number * 2), "a result was gone before its time")
    hands = await stage.step_worker(app)
    await take_nothing(stage, hands, "after all work was done")
    stats = await app.stats(queue)
    require(
        not stats.ready + stats.leased + stats.scheduled + stats.dead, f"all work is done, its queue counts {stats}"
    )
    await stage.outlast(keep)
    store = await stage.store()
    left = [key for key in stage.written if await store.get(key) is not None]
    require(not left, f"after their time {len(left)} records are still there, such as {left[:3]}")
