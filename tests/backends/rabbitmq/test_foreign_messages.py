"""Messages of other programs in our queues: each is a dead letter with its bytes, and our jobs run once."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import aiormq
import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic

from taskcore import App
from taskcore.backends.rabbitmq import layout
from taskcore.faults import RabbitServer

pytestmark = pytest.mark.timeout(120)

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
DEATH: dict[str, Any] = {
    "reason": "expired",
    "time": WHEN,
    "count": 2**40,
    "queue": "x",
    "exchange": "",
    "routing-keys": [],
}

#: name → properties and the body.
FOREIGN: Mapping[str, tuple[dict[str, Any], bytes]] = {
    "garbage": ({}, b"garbage"),
    "not UTF-8": ({}, b"\xff\xfe"),
    "a trail that is longer than the body": ({"headers": {"tc-trail": 999}}, b"garbage"),
    "a negative trail": ({"headers": {"tc-trail": -7}}, b"garbage"),
    "a trail of another program": ({"headers": {"tc-trail": 3}}, b"garbage"),
    "a huge trail": ({"headers": {"tc-trail": 2**60, "tc-reason": 2**60}}, b"garbage"),
    "lengths of other types": ({"headers": {"tc-trail": "many", "tc-reason": [1], "tc-before": {"a": 1}}}, b"garbage"),
    "an id that is a number": ({"headers": {"tc-id": 17}}, b"garbage"),
    "a long id": ({"headers": {"tc-id": "x" * 20_000}}, b"garbage"),
    "a time of another type": ({"headers": {"tc-id": WHEN, "tc-trail": None, "tc-before": True}}, b"garbage"),
    "handed out too often": ({"headers": {"x-delivery-count": 2**50, "tc-before": 2**60}}, b"garbage"),
    "a death": ({"headers": {"x-death": [DEATH], "x-first-death-reason": "expired"}}, b"garbage"),
    "a death that is text": ({"headers": {"x-death": "long ago"}}, b"garbage"),
    "a death of nothing": ({"headers": {"x-death": []}}, b"garbage"),
    "a death of numbers": ({"headers": {"x-death": [1, 2, 3]}}, b"garbage"),
    "a copy of another": ({"headers": {"tc-of": "one"}, "message_id": "one"}, b"garbage"),
    "the same id": ({"message_id": "one"}, b"other garbage"),
    "an id with dots": ({"message_id": "a.b.c"}, b"garbage"),
    "every property": (
        {
            "content_type": "text/plain", "content_encoding": "utf-7", "priority": 200, "correlation_id": "x" * 200,
            "reply_to": "nowhere", "timestamp": WHEN, "message_type": "x", "app_id": "y", "delivery_mode": 1,
        },
        b"garbage",
    ),
}  # fmt: skip


async def _publish(node: RabbitServer, key: str, names: Sequence[str]) -> None:
    connection = await aiormq.connect(node.url)
    try:
        channel = await connection.channel()
        for number, name in enumerate(names):
            properties, body = FOREIGN[name]
            await channel.basic_publish(
                body + b" %d" % number, routing_key=key, properties=Basic.Properties(**properties)
            )
    finally:
        await connection.close()


async def _play(node: RabbitServer, names: Sequence[str], level: str | None = None) -> None:
    queue = f"q{secrets.token_hex(4)}"
    app = App(f"{node.url}?min_queue_age=0.1", store="memory://", lease=5.0)
    runs: Counter[int] = Counter()

    @app.task(name="t.work", queue=queue)
    async def work(n: int) -> int:
        runs[n] += 1
        return n

    async with app:
        jobs = [await work.enqueue(0)]
        await _publish(node, level or layout.job_queue(queue), names)
        jobs += [await work.using(delay=0.3 * (n % 2)).enqueue(n) for n in range(1, 6)]
        wanted = 0 if level else len(names)
        for number in (100, 200):
            async with app.running(queues=[queue], grace=1.0):
                jobs.append(await work.enqueue(number))
                for job in jobs:
                    await job.result(timeout=15)
                await _wait_for_letters(app, queue, wanted)
        letters = [letter async for letter in app.dead_letters.read(queue)]
        assert len(letters) == wanted
        bodies = [FOREIGN[name][1] + b" %d" % number for number, name in enumerate(names)]
        assert all(any(body.startswith(letter.raw) for body in bodies) for letter in letters)
        assert set(runs.values()) == {1}, runs
        assert (await app.stats(queue)).ready == 0
        await app._host.queries.admin.delete(queue)


async def _wait_for_letters(app: App, queue: str, number: int) -> None:
    with anyio.move_on_after(8):
        while True:
            if (await app.stats(queue)).dead >= number:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", FOREIGN)
def test_something_foreign(node: RabbitServer, name: str) -> None:
    """Each of them is a dead letter with its bytes."""
    anyio.run(_play, node, [name, name])


@given(names=st.lists(st.sampled_from(sorted(FOREIGN)), min_size=2, max_size=12))
@settings(
    max_examples=4, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mixture(node: RabbitServer, names: list[str]) -> None:
    """All of them together do no more harm than one."""
    anyio.run(_play, node, names)


def test_foreign_messages_in_a_delay_level(node: RabbitServer) -> None:
    """Messages without a way on leave a delay level, and however many there are, delayed jobs come in time."""
    anyio.run(_play, node, ["garbage"])  # makes the levels
    for number in (0, 1):
        anyio.run(_play, node, ["garbage", "a death", "handed out too often"] * 30, layout.level(number))


async def _name_foreign(node: RabbitServer) -> None:
    app = App(f"{node.url}?min_queue_age=0.1", store="memory://")
    async with app:
        connection = await aiormq.connect(node.url)
        channel = await connection.channel()
        for body in (b"", b"x" * 1_000, b"\xff" * 300, b"no such queue", b"\x00"):
            await channel.basic_publish(body, routing_key=layout.QUEUE_NAMES)
        await connection.close()
        await asyncio.sleep(0.2)
        assert not {"", "x" * 1_000, "no such queue"} & set(await app._host.queries.admin.queues())


def test_foreign_names_of_queues(node: RabbitServer) -> None:
    """A name that no queue can have is skipped."""
    anyio.run(_name_foreign, node)
