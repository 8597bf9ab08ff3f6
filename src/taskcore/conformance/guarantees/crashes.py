"""Checks of death: a worker is gone at the worst moment, another one comes, nothing is lost, doubled or forgotten."""

from __future__ import annotations

import anyio

from taskcore.conformance.checks import WORKER_CHECKS, check, require
from taskcore.conformance.guarantees.crash_here import dying_at
from taskcore.conformance.guarantees.helpers import (
    die_holding,
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
from taskcore.conformance.step_worker import StepWorker
from taskcore.control import Reject
from taskcore.policy import Retry
from taskcore.results import Dead, Succeeded
from taskcore.router import Router
from taskcore.worker.context import current


@check(WORKER_CHECKS, "C1", "C4", needs="survives_worker")
async def a_killed_worker_loses_nothing(harness: Harness) -> None:
    """Jobs that run or wait when a worker is killed are all run by the next worker."""
    router, queue = Router(), harness.queue()
    started: list[int] = []
    done: list[int] = []

    @router.task(name=harness.name("long"), queue=queue)
    async def long(number: int) -> None:
        started.append(number)
        if len(started) <= 4:
            await anyio.sleep(harness.long)
        done.append(number)

    app, successor = await open_app(harness, router), await open_app(harness, router)
    await successor.enqueue_many(long.call(number) for number in range(12))
    with anyio.CancelScope() as life:
        async with working(harness, app, concurrency=4):
            await until(harness, lambda: len(started) >= 4, "a worker with four places did not start four jobs")
            life.cancel()
    require(not done, "this check is wrong: a job was done by a worker that should have died holding it")
    async with working(harness, successor):
        await until(harness, lambda: len(set(done)) == 12, "jobs of a worker that was killed were lost")
    require(sorted(done) == list(range(12)), f"jobs were done more than once: {sorted(done)}")


@check(WORKER_CHECKS, "C8", "C1", needs="survives_worker", store=True)
async def a_crash_while_settling_loses_no_result(harness: Harness) -> None:
    """A worker killed between return, result and ack: the result is stored, and the job is not run again for it."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("add"), queue=queue)
    async def add(number: int) -> int:
        starts.append(current().job_id)
        return number + 1

    app = await open_app(harness, router)
    for number, (name, wanted) in enumerate({"run.returned": 2, "settle.ended": 1, "settle.settled": 1}.items()):
        sent = await add.enqueue(number)
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            taken = await take(harness, dying)
            with dying_at(name):
                await dying.work(taken)
        async with StepWorker(app, [queue], lease=harness.lease) as successor:
            if name != "settle.settled":
                await work(harness, successor)
            await take_nothing(harness, successor, f"after a death at {name} and a second worker")
        ended = await outcome_of(harness, sent)
        require(ended == Succeeded(number + 1), f"after a death at {name} the job ended as {ended}")
        require(starts.count(sent.id) == wanted, f"after a death at {name} there were {starts.count(sent.id)} starts")


@check(WORKER_CHECKS, "C8", "C13", "C18", needs=("survives_worker", "dead_letters"), store=True)
async def a_crash_while_burying_leaves_one_letter(harness: Harness) -> None:
    """A worker killed between the recorded failure and the dead letter leaves one letter and no further start."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("no"), queue=queue)
    async def no() -> None:
        starts.append(current().job_id)
        raise Reject("never")

    app = await open_app(harness, router)
    for name in ("settle.ended", "settle.settled"):
        sent = await no.enqueue()
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            taken = await take(harness, dying)
            with dying_at(name):
                await dying.work(taken)
        async with StepWorker(app, [queue], lease=harness.lease) as successor:
            if name == "settle.ended":
                await work(harness, successor)
            await take_nothing(harness, successor, f"after a death at {name} and a second worker")
        letters = [letter for letter in await letters_of(app, queue) if letter.job_id == sent.id]
        require(len(letters) == 1, f"after a death at {name} there are {len(letters)} letters")
        require(letters[0].reason == "rejected: never", f"after a death at {name} the reason is {letters[0].reason!r}")
        require(starts.count(sent.id) == 1, f"after a death at {name} there were {starts.count(sent.id)} starts")
        require(
            isinstance(await outcome_of(harness, sent), Dead),
            f"after a death at {name} no record says that the job is dead",
        )


@check(WORKER_CHECKS, "C8", "C3", "C1", needs="survives_worker")
async def a_crash_while_retrying_leaves_one_copy(harness: Harness) -> None:
    """A worker killed before or after it settles a retry leaves one copy, and the starts stay within their bound."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("again"), queue=queue, retry=Retry(attempts=2, base=0.0), crashes=3)
    async def again() -> None:
        starts.append(current().attempt)
        if len(starts) <= 1:
            raise ConnectionError("not now")

    app = await open_app(harness, router)
    for name in ("settle.ended", "settle.settled"):
        starts.clear()
        await again.enqueue()
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            taken = await take(harness, dying)
            with dying_at(name):
                await dying.work(taken)
        async with StepWorker(app, [queue], lease=harness.lease) as successor:
            while await successor.take(within=harness.beyond) is not None:
                for job in successor.executions:
                    require(await successor.work(job), "the lease of a job was lost although it was settled in time")
        bound = 2 + 3
        require(
            2 <= len(starts) <= bound, f"after a death at {name} there were {len(starts)} starts: attempts {starts}"
        )
        require(starts == sorted(starts), f"after a death at {name} attempts went back: {starts}")


@check(WORKER_CHECKS, "C5", "C3", "C7", needs=("survives_worker", "redeliveries"))
async def counters_never_decrease(harness: Harness) -> None:
    """Through failures, crashes and releases, attempts, crashes and errors never decrease, and fences grow."""
    router, queue = Router(), harness.queue()
    seen: list[tuple[int, int, int, int]] = []

    @router.task(name=harness.name("counted"), queue=queue, retry=Retry(attempts=9, base=0.0), crashes=9)
    async def counted() -> None:
        me = current()
        seen.append((me.attempt, me.crashes, me.fence, len(me.trail.errors)))
        if len(seen) in {1, 4, 6}:
            raise ConnectionError("not now")

    app = await open_app(harness, router)
    await counted.enqueue()
    step_worker = await harness.step_worker(app)
    for part in ("work", "die", "die", "work", "release", "die", "work", "die", "work"):
        if part == "die":
            await die_holding(harness, app)
        elif part == "release":
            require(await step_worker.release(await take(harness, step_worker)), "a job could not be given back")
        else:
            await work(harness, step_worker)
    require(len(seen) == 8, f"this check is wrong: eight starts were planned, there were {len(seen)}")
    for name, values in zip(("attempt", "crashes", "fence", "errors"), zip(*seen, strict=True), strict=True):
        require(list(values) == sorted(values), f"the {name} of a job went back: {values}")
    fences = [fence for _, _, fence, _ in seen]
    require(len(set(fences)) == len(fences), f"two holders had the same fence: {fences}")
    await take_nothing(harness, step_worker, "after it ended")


@check(WORKER_CHECKS, "C3", "C12", needs=("survives_worker", "dead_letters"), store=True)
async def starts_are_bounded(harness: Harness) -> None:
    """A job that fails and kills its worker in turn is dead after at most ``attempts`` + ``crashes`` starts."""
    router, queue, attempts, crashes = Router(), harness.queue(), 3, 2
    starts: list[int] = []

    @router.task(name=harness.name("both"), queue=queue, retry=Retry(attempts=attempts, base=0.0), crashes=crashes)
    async def both() -> None:
        starts.append(current().attempt)
        raise ConnectionError("not now")

    app = await open_app(harness, router)
    await both.enqueue()
    while not await app.dead_letters.count(queue):
        before = len(starts)
        async with StepWorker(app, [queue], lease=harness.lease) as step_worker:
            conclusion = await step_worker.perform(await take(harness, step_worker))
            kills = len(starts) > before and len(starts) % 2 == 1
            if conclusion is not None and not kills:
                await step_worker.settle(conclusion)
        require(
            len(starts) <= attempts + crashes, f"{len(starts)} starts with {attempts} attempts and {crashes} crashes"
        )
    [letter] = await letters_of(app, queue)
    require(letter.reason in {"exhausted", "poison"}, f"the reason of its death is {letter.reason!r}")


@check(WORKER_CHECKS, "C12", "C3", needs=("survives_worker", "dead_letters", "redeliveries"))
async def a_job_that_kills_its_worker_is_buried(harness: Harness) -> None:
    """After ``crashes`` starts without an outcome a job becomes a dead letter, "poison", without another start."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("kill"), queue=queue, crashes=3)
    async def kill() -> None:
        starts.append(current().attempt)

    app = await open_app(harness, router)
    await kill.enqueue()
    for _ in range(3):
        await die_holding(harness, app)
    require(starts == [1, 1, 1], f"three deaths were planned, the attempts were {starts}")
    await work(harness, await harness.step_worker(app))
    require(len(starts) == 3, "a job that killed three workers was started again")
    [letter] = await letters_of(app, queue)
    require(letter.reason == "poison", f"the reason of its death is {letter.reason!r}")
    require(letter.trail.attempts == 0, "deaths were counted as attempts")
    require(app.counters["job.buried"] == 1, "the burial was not counted")


@check(WORKER_CHECKS, "C12", needs=("survives_worker", "redeliveries"), store=True)
async def other_jobs_of_a_crashed_worker_are_not_blamed(harness: Harness) -> None:
    """Jobs that a crashed worker held but had not started do not count as crashed, and are run."""
    router, queue = Router(), harness.queue()
    seen: list[int] = []

    @router.task(name=harness.name("innocent"), queue=queue, crashes=2)
    async def innocent() -> None:
        seen.append(current().crashes)

    app = await open_app(harness, router)
    for _ in range(3):
        await innocent.enqueue()
    for _ in range(4):
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            for _ in range(3):
                await take(harness, dying)
    step_worker = await harness.step_worker(app)
    for _ in range(3):
        await work(harness, step_worker)
    require(seen == [0, 0, 0], f"jobs that never started count as crashed: {seen}")
    require(not await app.dead_letters.count(queue), "a job that never started became a dead letter")


@check(WORKER_CHECKS, "C7", "C19", "C18", needs=("survives_worker", "fencing", "redeliveries"), store=True)
async def a_worker_without_its_lease_writes_nothing(harness: Harness) -> None:
    """A worker that settles too late changes neither result nor dead letters, and reports the lost lease."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("slow"), queue=queue, retry=None)
    async def slow() -> str:
        starts.append(current().fence)
        if len(starts) == 1:
            raise ConnectionError("this worker is too late")
        return "in time"

    app, other = await open_app(harness, router), await open_app(harness, router)
    sent = await slow.enqueue()
    async with (
        StepWorker(app, [queue], lease=harness.lease) as sleepy,
        StepWorker(other, [queue], lease=harness.lease) as successor,
    ):
        conclusion = await sleepy.perform(await take(harness, sleepy))
        await work(harness, successor)
        require(conclusion is not None and not await sleepy.settle(conclusion), "a lost lease was not noticed")
    require(app.counters["job.lost"] == 1, "a lost lease was not counted")
    require(await outcome_of(harness, sent) == Succeeded("in time"), "a worker without a lease wrote the outcome")
    require(not await letters_of(app, queue), "a worker without a lease wrote a dead letter")
    require(starts[1] > starts[0], f"the second holder's fence is not higher: {starts}")
