"""Policies of an operator that limit our queues: what does not fit is refused, and nothing is dropped."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import anyio
import pytest

from taskcore import App, Dead, EnqueueRefused, Retry
from taskcore.adapters import open_backend
from taskcore.backends.rabbitmq import layout
from taskcore.faults import RabbitServer
from taskcore.lifecycle import ACK
from taskcore.worker import outages

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300, func_only=True),
]  # commands and starts of a node have limits of their own
ON_NEWER = {"test_a_full_queue_refuses_and_drops_nothing", "test_what_a_policy_drops_is_a_dead_letter"}

OPTIONS = "?min_queue_age=0.1&timeout=10"
APPLIED_WITHIN = 20.0  #: seconds: a node applies a policy to its queues after it has said that it is set
REFUSING = [{"overflow": "reject-publish"}, {}]


@asynccontextmanager
async def policy(node: RabbitServer, queue: str, **definition: Any) -> AsyncIterator[Callable[[], Any]]:
    """Let an operator limit one queue of the broker; yield what ends that."""
    name, pattern = secrets.token_hex(4), f"^{queue.replace('.', '[.]')}$"

    async def clear() -> None:
        await node.control("clear_policy", name)

    await node.control("set_policy", "--apply-to", "queues", name, pattern, json.dumps(definition))
    try:
        yield clear
    finally:
        with suppress(RuntimeError):  # the test has done it
            await clear()


@pytest.mark.parametrize("overflow", REFUSING, ids=["said", "not said"])
async def test_a_full_queue_refuses_and_drops_nothing(node: RabbitServer, overflow: dict[str, str]) -> None:
    """An enqueue above the limit of a policy is refused with the fix, unless the policy wants something dropped."""
    queue = f"limited-{secrets.token_hex(4)}"
    app = App(node.url + OPTIONS, store="memory://", send_timeout=30)

    @app.task(queue=queue)
    async def work(number: int) -> None: ...

    async with app:
        await work.enqueue(0)
        async with policy(node, layout.job_queue(queue), **{"max-length": 5, **overflow}):
            confirmed = {0}

            async def fill() -> None:
                for number in count(1):
                    await work.enqueue(number)
                    confirmed.add(number)
                    await anyio.sleep(number / 1_000)

            refusal = r"TC203(.|\n)*basic.nack(.|\n)*rabbitmqctl list_policies"
            with anyio.fail_after(APPLIED_WITHIN), pytest.raises(EnqueueRefused, match=refusal):
                await fill()
            async with open_backend(node.url + OPTIONS) as backend, backend.consume([queue], lease=30.0) as source:
                found = list[Any]()
                with anyio.fail_after(10):
                    while len(found) < len(confirmed):
                        found += await source.receive(100)
                assert {json.loads(one.envelope)["args"]["number"] for one in found} == confirmed
                assert await source.settle([(one, ACK) for one in found]) == []
        await work.enqueue(0)


async def test_what_a_policy_drops_is_a_dead_letter(node: RabbitServer) -> None:
    """A policy that drops the oldest jobs of a full queue wins over the queue's own setting; they are dead letters."""
    queue = f"dropped-{secrets.token_hex(4)}"
    app = App(node.url + OPTIONS, store="memory://", send_timeout=30)

    @app.task(queue=queue)
    async def work(number: int) -> None: ...

    async with app:
        jobs = [await work.enqueue(0)]
        async with policy(node, layout.job_queue(queue), **{"max-length": 5, "overflow": "drop-head"}):
            jobs += [await work.enqueue(number) for number in range(1, 20)]
            with anyio.fail_after(APPLIED_WITHIN):
                stats = await app.stats(queue)
                while stats.ready > 6 or stats.ready + stats.dead < len(jobs):  # the limit, and a job that it lets pass
                    await anyio.sleep(0.05)
                    stats = await app.stats(queue)
            assert stats.dead >= len(jobs) - 6
            reasons = {letter.reason async for letter in app.dead_letters.read(queue)}
            assert reasons == {"dropped by the broker: its queue was full, and a policy says drop-head"}


async def test_letters_that_have_no_room_hold_up_no_other_job(
    node: RabbitServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead letters above a policy's limit stay jobs, and the log says why; other jobs end; later all are letters."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 1.0)
    queue, runs = f"letters-{secrets.token_hex(4)}", list[int]()
    app = App(node.url + OPTIONS, store="memory://", send_timeout=30, retry=Retry(attempts=1))

    @app.task(queue=queue)
    async def fail(number: int) -> None:
        runs.append(number)
        raise ValueError(number)

    @app.task(queue=queue)
    async def work(number: int) -> int:
        return number

    async with app:
        await work.enqueue(0)
        limit = policy(node, layout.dead_queue(queue), **{"max-length": 2})
        async with limit as clear, app.running():
            with anyio.fail_after(80):
                bad = [await fail.enqueue(0)]
                while "could not be stored" not in caplog.text:  # the broker lets a few more pass than its limit says
                    await anyio.sleep(0.2)
                    bad.append(await fail.enqueue(len(bad)))
                good = await app.enqueue_many(work.call(number) for number in range(20))
                assert [await job.result() for job in good] == list(range(20))
                assert await app.dead_letters.count(queue) < len(bad)
                await clear()
                assert all([isinstance(await job.outcome(), Dead) for job in bad])
                while await app.dead_letters.count(queue) < len(bad):  # noqa: ASYNC110 - letters have no event
                    await anyio.sleep(0.05)
        assert sorted(runs) == list(range(len(bad)))
        assert {letter.job_id async for letter in app.dead_letters.read(queue)} == {job.id for job in bad}


async def test_retries_that_have_no_room_stay_jobs(node: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries of a queue that a policy keeps full are stored when there is room, and none is lost."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 1.0)
    queue, runs = f"retries-{secrets.token_hex(4)}", list[int]()
    app = App(node.url + OPTIONS, store="memory://", send_timeout=30, retry=Retry(attempts=3, base=0.0, jitter="none"))

    @app.task(queue=queue)
    async def flaky(number: int) -> int:
        runs.append(number)
        if runs.count(number) < 3:
            raise ValueError(number)
        return number

    async with app:
        jobs = await app.enqueue_many(flaky.call(number) for number in range(30))
        limit = policy(node, layout.job_queue(queue), **{"max-length": 3, "overflow": "reject-publish"})
        async with limit, app.running(concurrency=4):
            with anyio.fail_after(80):
                assert [await job.result() for job in jobs] == list(range(30))
    assert all(runs.count(number) == 3 for number in range(30))
