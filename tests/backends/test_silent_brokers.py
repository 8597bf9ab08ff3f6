"""A broker that is frozen: connected, but without an answer."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, BrokerUnavailable, EnqueueUncertain
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
                await work.enqueue()
                server.pause()
                began = anyio.current_time()
                with pytest.raises(EnqueueUncertain, match="connected, but no answer for 3 s"):
                    await work.enqueue()
                assert anyio.current_time() - began < 3.5
                with pytest.raises(BrokerUnavailable, match="connected, but no answer"):
                    await App(url, store=store).__aenter__()
                assert anyio.current_time() - began < 10
                server.resume()
                with anyio.fail_after(20):
                    while True:
                        try:
                            await work.enqueue()
                            break
                        except (EnqueueUncertain, BrokerUnavailable):
                            await anyio.sleep(0.1)

    anyio.run(main)
