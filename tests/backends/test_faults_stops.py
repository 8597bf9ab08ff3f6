"""Workers that are stopped: twice, while their broker is away or silent, before they are connected. On each broker."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from taskcore.faults import ChaosProxy, NatsServer, RedisServer, Server
from tests.support.fault_plays import play_on
from tests.support.rabbit_play import RabbitPlay
from tests.support.real import require
from tests.support.redis_play import SHORT_TIMEOUTS, Play, send, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

GRACE = 0.5  #: seconds, of the workers that are stopped while their broker is away


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


async def test_stopped_twice(play: Play, tmp_path: Path):
    """F09: the second SIGTERM interrupts what runs; it is given back at once, and is neither attempt nor crash."""
    async with play.app("client") as app, play.worker(tmp_path, "old", lease=30.0, grace=60.0) as old:
        await old.says("ready")
        await app.tasks["work"].enqueue(1, 3.0)
        await until(lambda: play.count("start") == 1, "a start")
        old.terminate()
        await old.says("stopping")
        old.terminate()
        assert await old.wait(within=5.0) == 0
        async with play.running("heir", lease=30.0):
            report = await play.check()
    [starts] = [[entry for entry in history if entry.kind == "start"] for history in report.histories.values()]
    assert [entry.facts["attempt"] for entry in starts] == [1, 1]


async def test_stopped_before_it_is_connected(broker: Server, tmp_path: Path):
    """F09: SIGTERM while the first connection is being made ends the worker."""
    async with ChaosProxy("127.0.0.1", broker.port) as proxy:
        proxy.black_hole()
        play = play_on(broker, tmp_path)
        async with play.worker(tmp_path, "w", play.url.replace(f":{broker.port}", f":{proxy.port}")) as worker:
            await until(lambda: proxy.accepted > 0, "a connection")
            worker.terminate()
            assert await worker.wait(within=10.0) in {0, -signal.SIGTERM, 143}


class Away(NamedTuple):
    """A server, and the play on it.

    :param shared: the server is not killed, because it takes long to start and others use it.
    :param is_noticed: the worker is stopped when it has noticed that its broker is away, not at once.
    :param within: seconds in which a stopped worker ends.
    """

    server: Server
    play: Play
    worker_url: str
    shared: bool
    is_noticed: bool
    within: float


@pytest.fixture
async def away(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Away]:
    """Serve a broker for a test to mistreat."""
    if request.param == "rabbitmq":
        node: Server = request.getfixturevalue("shared_nodes")("")
        play = RabbitPlay(node.url, tmp_path, "min_queue_age=0.1&timeout=1&heartbeat=1")
        yield Away(node, play, play.url, shared=True, is_noticed=True, within=15.0)
        return
    kind: type[Server] = {"redis": RedisServer, "nats": NatsServer}[request.param]
    async with require(kind)() as server:
        url = server.url + (SHORT_TIMEOUTS if request.param == "redis" else "")
        is_noticed = request.param == "redis"
        yield Away(server, Play(server.url), url, shared=False, is_noticed=is_noticed, within=GRACE + 5.0 + 5.0)


CASES = [("redis", "gone"), ("redis", "silent"), ("nats", "gone"), ("nats", "silent"), ("rabbitmq", "silent")]


@pytest.mark.parametrize(("away", "how"), CASES, indirect=["away"])
async def test_stopped_while_the_broker_is_away(away: Away, how: str, tmp_path: Path):
    """F09, F22: a worker lives through an outage; stopped while its broker is away or silent, it ends all the same."""
    server, play = away.server, away.play
    async with play.app("client") as app, play.worker(tmp_path, "old", away.worker_url, grace=GRACE) as old:
        await old.says("ready")
        await app.tasks["work"].enqueue(1, 0.1)
        await until(lambda: play.count("settled") == 1, "the first job")
        if not away.shared:
            server.kill()
            await old.says("broker lost")
            await server.restart()
            await old.says("broker back")
            await send(app, [2])
            await until(lambda: play.count("settled") == 2, "the second job")
        server.pause() if how == "silent" else server.kill()
        try:
            if away.is_noticed:
                losses = 1 if away.shared else 2
                await until(lambda: old.output(lines=10_000).count("broker lost") == losses, "the worker notices")
            else:
                await anyio.sleep(0.3)
            old.terminate()
            assert await old.wait(within=away.within) >= 0
        finally:
            server.resume() if how == "silent" else await server.restart()
