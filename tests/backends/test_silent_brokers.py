"""A broker that is frozen: connected, but without an answer."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, BrokerUnavailable, EnqueueUncertain, Task
from taskcore.faults import NatsServer, RabbitServer, RedisServer
from tests.support.real import require

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]

SERVERS = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_frozen_broker_is_told_from_one_that_is_gone(kind: str) -> None:
    """It holds a lone enqueue for three seconds at most, and the texts say that it is connected and does not answer."""

    async def main() -> None:
        async with require(SERVERS[kind])() as server:
            url, store = server.url, "memory://" if kind == "rabbitmq" else None
            app = App(f"{url}?min_queue_age=0" if store else url, store=store)

            @app.task(queue="frozen")
            async def work() -> None: ...

            async with app:
                await in_the_end(work)  # a new RabbitMQ declares its queues first, which takes a busy machine long
                server.pause()
                async with anyio.create_task_group() as group:
                    control: list[float] = []
                    group.start_soon(wait, 3.0, control)
                    with pytest.raises(EnqueueUncertain, match="connected, but no answer for 3 s"):
                        await work.enqueue()
                    ended = anyio.current_time()
                assert ended - control[0] < 0.5
                began = anyio.current_time()
                with pytest.raises(BrokerUnavailable, match="connected, but no answer"):
                    await App(url, store=store).__aenter__()
                assert anyio.current_time() - began < 6.5
                server.resume()
                await in_the_end(work)

    anyio.run(main)


async def in_the_end(work: Task[[], None]) -> None:
    """Send a job as soon as the broker takes it."""
    with anyio.fail_after(20):
        while True:
            try:
                await work.enqueue()
                break
            except (EnqueueUncertain, BrokerUnavailable):
                await anyio.sleep(0.1)


async def wait(seconds: float, ended: list[float]) -> None:
    """Sleep in the loop of the test, and note when that ended: a busy machine delays it, too."""
    await anyio.sleep(seconds)
    ended.append(anyio.current_time())
