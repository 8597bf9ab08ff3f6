"""Checks of keys: one committed outcome for each, whichever process dies."""

from __future__ import annotations

import anyio
from msgspec import Raw

from taskcore.backend import Outgoing
from taskcore.conformance.checks import WORKER_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.crash_here import dying_at
from taskcore.conformance.guarantees.deliveries import put
from taskcore.conformance.guarantees.helpers import open_app, outcome_of, take, until, work, working
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.envelope import FORMAT, Envelope, encode_envelope, new_id
from taskcore.errors import KeyConflict
from taskcore.results import Succeeded
from taskcore.router import Router
from taskcore.task import Job
from taskcore.worker.context import current


@check(WORKER_CHECKS, "C10", "C2", "C19", store=True)
async def a_key_stands_for_one_job(harness: Harness) -> None:
    """Calls with one key, at once or later, are one job; all of them get its outcome, and each repeat is counted."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("pay"), queue=queue, key="order")
    async def pay(order: int) -> str:
        starts.append(current().job_id)
        return f"paid {order}"

    apps = [await open_app(harness, router), await open_app(harness, router)]
    sent: list[Job[str]] = []

    async def enqueue(number: int) -> None:
        sent.append(await apps[number % 2].send(pay.call(7)))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(enqueue, number)
    async with working(harness, apps[0]):
        for job in [*sent, await pay.enqueue(7)]:
            require(job.id == sent[0].id, "calls with one key became several jobs")
            ended = await outcome_of(harness, job)
            require(ended == Succeeded("paid 7"), f"a call with a known key ended as {ended}")
    require(starts == [sent[0].id], f"a key was started {len(starts)} times")
    told = sum(app.counters["job.duplicate"] for app in apps)
    require(told >= 1, "repeated calls with one key were not counted")


@check(WORKER_CHECKS, "C10", "C19", store=True)
async def a_key_belongs_to_its_arguments(harness: Harness) -> None:
    """A key that is used again with other arguments is refused, and nothing is sent."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("pay"), queue=queue, key="order")
    async def pay(order: int, cents: int) -> int:
        return order + cents

    app = await open_app(harness, router)
    await pay.enqueue(7, 100)
    try:
        await pay.enqueue(7, 200)
    except KeyConflict:
        pass
    else:
        raise ClauseViolated("a key was accepted with other arguments")
    require(app.counters["key.conflict"] == 1, "a refused key was not counted")
    step_worker = await harness.step_worker(app, lease=harness.long)
    await work(harness, step_worker)
    require(await step_worker.take(within=harness.margin + 0.1) is None, "a call whose key was refused was sent")


@check(WORKER_CHECKS, "C10", "C1", "C2", needs="dedup", store=True)
async def a_crashed_enqueue_can_be_repeated(harness: Harness) -> None:
    """A caller killed between claim, publish and confirmation can be repeated by another caller: one job, one start."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("pay"), queue=queue, key="order")
    async def pay(order: int) -> int:
        starts.append(order)
        return order

    app, other = await open_app(harness, router), await open_app(harness, router)
    for order, name in enumerate(("enqueue.claimed", "enqueue.published")):
        with dying_at(name):
            await app.send(pay.call(order))
        job = await other.send(pay.call(order))
        again = await other.send(pay.call(order))
        require(job.id == again.id, f"after a death at {name} a key became two jobs")
        async with working(harness, other):
            ended = await outcome_of(harness, job)
        require(ended == Succeeded(order), f"after a death at {name} the key ended as {ended}")
        require(starts.count(order) == 1, f"after a death at {name} the key was started {starts.count(order)} times")


@check(WORKER_CHECKS, "C10", "C8", "C4", needs="survives_worker", store=True)
async def a_key_is_free_after_its_holder_crashes(harness: Harness) -> None:
    """A worker killed while it holds a key blocks it no longer than its lease; one outcome is committed."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("pay"), queue=queue, key="order")
    async def pay(order: int) -> int:
        starts.append(order)
        return order * 100 + starts.count(order)

    app = await open_app(harness, router)
    wanted = {"hold.taken": (1, 1), "run.returned": (2, 2), "settle.committed": (1, 1), "settle.ended": (1, 1)}
    for order, (name, (runs, outcome)) in enumerate(wanted.items()):
        job = await pay.enqueue(order)
        async with StepWorker(app, [queue], lease=harness.lease) as dying:
            taken = await take(harness, dying)
            with dying_at(name):
                await dying.work(taken)
        async with working(harness, app):
            ended = await outcome_of(harness, job)
            await app.drain(queue, timeout=harness.lease + harness.timeout)
        require(ended == Succeeded(order * 100 + outcome), f"after a death at {name} the key ended as {ended}")
        require(starts.count(order) == runs, f"after a death at {name} there were {starts.count(order)} starts")
        again = await pay.enqueue(order)
        require(await outcome_of(harness, again) == ended, f"after a death at {name} a duplicate got another outcome")


@check(WORKER_CHECKS, "C10", "C7", "C19", needs=("survives_worker", "fencing"), store=True)
async def only_the_current_holder_of_a_key_commits(harness: Harness) -> None:
    """Two workers run one key because the first one stalled: only the current holder of the key commits."""
    router, queue = Router(), harness.queue()
    starts: list[int] = []

    @router.task(name=harness.name("pay"), queue=queue, key="order")
    async def pay(order: int) -> int:
        starts.append(current().fence)
        return len(starts)

    app, other = await open_app(harness, router), await open_app(harness, router)
    job = await pay.enqueue(7)
    async with (
        StepWorker(app, [queue], lease=harness.lease) as sleepy,
        StepWorker(other, [queue], lease=harness.lease) as successor,
    ):
        first = await sleepy.perform(await take(harness, sleepy))
        second = await successor.perform(await take(harness, successor))
        require(first is not None and not await sleepy.settle(first), "a lost lease was not noticed")
        require(second is not None and await successor.settle(second), "a holder in time could not settle")
    require(starts[0] < starts[1], f"the fence did not grow from holder to holder: {starts}")
    require(app.counters["key.lost"] == 1, "a key that was lost was not counted")
    ended = await outcome_of(harness, job)
    require(ended == Succeeded(2), f"the committed outcome is {ended}, the key's holder said 2")


@check(WORKER_CHECKS, "C10", "C14", "C23", store=True)
async def a_key_without_an_outcome_can_be_used_again(harness: Harness) -> None:
    """A dead or cancelled job commits nothing, so its key can be used for a new job."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("pay"), queue=queue, key="order", retry=None)
    async def pay(order: int) -> int:
        starts.append(current().job_id)
        if len(starts) == 1:
            raise ConnectionError("not now")
        return order

    app = await open_app(harness, router)
    first = await pay.enqueue(7)
    step_worker = await harness.step_worker(app, lease=harness.long)
    await work(harness, step_worker)
    second = await pay.enqueue(7)
    require(second.id != first.id, "the key of a dead job is still its own")
    if harness.features.remove != "absent":
        require(await second.cancel(), "a job with a key that waits could not be cancelled")
        third = await pay.enqueue(7)
        require(third.id != second.id, "the key of a cancelled job is still its own")
        second = third
    await work(harness, step_worker)
    require(await outcome_of(harness, second) == Succeeded(7), "a key that is free again did not work")


@check(WORKER_CHECKS, "C10", "C17", needs="delay", store=True)
async def a_second_job_waits_for_a_held_key(harness: Harness) -> None:
    """A second job whose key is held waits without using an attempt, does not run, and gets the outcome."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []
    finish = anyio.Event()

    @router.task(name=harness.name("pay"), queue=queue)
    async def pay(order: int) -> int:
        starts.append(current().job_id)
        await finish.wait()
        return order

    app = await open_app(harness, router)
    key = harness.name("key")
    async with working(harness, app):
        first = await pay.using(key=key).enqueue(7)
        await until(harness, lambda: starts, "a job with a key did not start")
        stray = new_id()
        envelope = Envelope(
            v=FORMAT, id=stray, task=pay.name, queue=queue, args=Raw(b'{"order":7}'), enqueued_at=harness.now(), key=key
        )
        await put(app.components.backend, Outgoing(queue, stray, encode_envelope(envelope)))
        await until(harness, lambda: app.counters["job.deferred"], "a job whose key is held did not wait")
        finish.set()
        ended = await outcome_of(harness, pay.job(stray))
    require(ended == Succeeded(7), f"a second job of a key ended as {ended}")
    require(starts == [first.id], f"a key that was held was started {len(starts)} times")
