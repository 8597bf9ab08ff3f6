"""Connections that a NAT or a firewall has forgotten: open on both sides, and no byte passes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from taskcore import App, BrokerUnavailable, EnqueueUncertain
from taskcore.adapters import open_store
from taskcore.faults import ChaosProxy, NatsServer, PostgresServer, RabbitServer, RedisServer, Server
from taskcore.store import ANY
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90), pytest.mark.slow]

LIMIT = 10.0  #: seconds that a forgotten connection may cost
BROKERS: dict[str, type[Server]] = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}
STORES: dict[str, type[Server]] = {"redis": RedisServer, "nats": NatsServer, "postgresql": PostgresServer}


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: the client libraries know nothing else."""
    return "asyncio"


@asynccontextmanager
async def serving(kind: type[Server]) -> AsyncIterator[tuple[str, str, ChaosProxy]]:
    """Run a server; yield its URL, the URL through a proxy, and the proxy."""
    async with require(kind)() as server, ChaosProxy("127.0.0.1", server.port) as proxy:
        options = "?min_queue_age=0.1" if kind is RabbitServer else ""
        through = server.url.replace(f":{server.port}", f":{proxy.port}")
        yield server.url + options, through + options, proxy


def app_on(url: str, started: dict[int, float]) -> App:
    """Return an app with a task that notes when it starts."""
    app = App(url, store="memory://" if url.startswith("amqp") else None)

    @app.task(name="work", queue="silent")
    async def work(number: int) -> None:
        started[number] = time.monotonic()

    return app


async def enqueue(app: App, number: int) -> None:
    """Enqueue until it is confirmed: a server that has just started may need a moment for a new queue."""
    while True:
        try:
            await app.tasks["work"].enqueue(number)
        except (BrokerUnavailable, EnqueueUncertain):
            await anyio.sleep(0.1)
        else:
            return


async def wait_for(true: Callable[[], bool]) -> None:
    """Wait until it is so, no longer than a forgotten connection may cost."""
    with anyio.fail_after(LIMIT):
        while not true():  # noqa: ASYNC110 - jobs have no event here
            await anyio.sleep(0.02)


@pytest.mark.parametrize("idle", [2.5, 6.0])
@pytest.mark.parametrize("kind", BROKERS)
async def test_an_idle_worker_whose_connection_was_forgotten_starts_the_next_job(kind: str, idle: float) -> None:
    """A job that another client sends starts within ten seconds, with the default lease."""
    started: dict[int, float] = {}
    async with serving(BROKERS[kind]) as (url, through, proxy):
        worker, sender = app_on(through, started), app_on(url, started)
        async with sender, worker, worker.running():
            await enqueue(sender, 1)
            await wait_for(lambda: 1 in started)
            await anyio.sleep(idle)
            proxy.forget()
            await enqueue(sender, 2)
            await wait_for(lambda: 2 in started)


@pytest.mark.parametrize("kind", BROKERS)
async def test_an_idle_caller_whose_connection_was_forgotten_is_answered(kind: str) -> None:
    """Each enqueue is confirmed or fails within seconds, and one is confirmed within ten."""
    async with serving(BROKERS[kind]) as (_, through, proxy), app_on(through, {}) as app:
        await enqueue(app, 0)
        proxy.forget()
        with anyio.fail_after(LIMIT):
            while True:
                try:
                    with anyio.fail_after(4):
                        await app.tasks["work"].enqueue(1)
                    break
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
                except EnqueueUncertain:
                    pass


@pytest.mark.parametrize("kind", STORES)
async def test_a_store_whose_connections_were_forgotten_answers(kind: str) -> None:
    """A record is written, and one that another client writes is seen, within ten seconds."""
    async with (
        serving(STORES[kind]) as (url, through, proxy),
        open_store(url) as other,
        open_store(through) as store,
        store.watch("watched") as records,
    ):
        await store.put("mine", b"1", expect=ANY, keep=60)
        await anyio.sleep(2.5)
        proxy.forget()
        await other.put("watched", b"2", expect=ANY, keep=60)
        with anyio.fail_after(LIMIT):
            while True:
                try:
                    await store.put("mine", b"3", expect=ANY, keep=60)
                    break
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
            async for record in records:
                assert record.value == b"2"
                break
