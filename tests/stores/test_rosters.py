"""The roster on each store: workers are listed by default, share no number, and leave with their end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App
from taskcore.faults import NatsServer, PostgresServer, RedisServer, Server
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SERVERS: dict[str, type[Server]] = {"redis": RedisServer, "nats": NatsServer, "postgresql": PostgresServer}


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the clients know no other loop."""
    return "asyncio"


@pytest.fixture(scope="module", params=[*SERVERS, "sqlite"])
def server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    """Serve each kind of store in turn; a file needs no server."""
    if request.param == "sqlite":
        yield None
        return
    with serving(SERVERS[request.param]) as server:
        yield server


@pytest.fixture
def store(server: Server | None, tmp_path: Path) -> str:
    """Name the store."""
    return f"sqlite:///{tmp_path}/records.db" if server is None else server.url


def app_on(store: str, name: str, **settings: Any) -> App:
    """Make an app with a task, on a broker of its own."""
    app = App("memory://", store=store, source=name, **settings)

    @app.task
    async def work() -> None: ...

    return app


async def listed(app: App, number: int) -> list[str]:
    """Wait until so many workers are listed; return their names."""
    with anyio.fail_after(20):
        while len(found := await app.workers()) != number:  # noqa: ASYNC110 - other programs write it
            await anyio.sleep(0.05)
    return [worker.name for worker in found]


async def test_workers_that_want_the_same_number(store: str, monkeypatch: pytest.MonkeyPatch):
    """Ten workers that try the same numbers are all listed, without a setting; those that end are not, at once."""
    monkeypatch.setattr(random.SystemRandom, "sample", lambda _, names, number: names[:number])
    names = [f"worker-{number}" for number in range(10)]
    async with AsyncExitStack() as exits:
        for name in names:
            await exits.enter_async_context(app_on(store, name).running())
        client = await exits.enter_async_context(app_on(store, "client"))
        assert await listed(client, 10) == names
        async with app_on(store, "last").running():
            assert await listed(client, 11) == ["last", *names]
        assert [worker.name for worker in await client.workers()] == names


async def test_a_worker_stays_listed_until_it_dies(store: str):
    """A worker that beats is listed for longer than its record is kept, and one without a beat is not."""
    async with app_on(store, "quick", heartbeat=0.2).running() as app, app_on(store, "silent", heartbeat=0).running():
        began = (await listed(app, 1), (await app.workers())[0].seen)[1]
        await anyio.sleep(2.5)  # a record is kept for three beats and a second
        [worker] = await app.workers()
        assert (worker.name, worker.concurrency) == ("quick", 100)
        assert worker.seen - began > 1.5
