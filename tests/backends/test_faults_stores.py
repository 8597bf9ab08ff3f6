"""Stores beside real brokers that are away, locked, or lose an answer; and keys whose holders die."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from taskcore import App, BrokerUnavailable, TaskcoreError
from taskcore.adapters import open_backend, open_store
from taskcore.faults import ChaosProxy, PostgresServer, Server
from taskcore.faults.crash import CRASHED
from tests.support.fault_plays import SCRIPT, client_of, play_on, worker_of
from tests.support.fault_tasks import declare_faults
from tests.support.real import serving
from tests.support.redis_play import Play, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL."""
    with serving(PostgresServer) as server:
        yield server


class Shaky:
    """A store that a test takes away from those who use ``url``, but not from itself.

    :param direct: how it is reached all the same.
    :param lose_answer: cuts the next answer of the store; None if there is no network in between.
    """

    def __init__(
        self,
        url: str,
        direct: str,
        away: Callable[[], Awaitable[None]],
        back: Callable[[], Awaitable[None]],
        lose_answer: Callable[[], None] | None,
    ) -> None:
        self.url, self.direct = url, direct
        self.away, self.back = away, back
        self.lose_answer = lose_answer


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shaky]:
    """Serve a store of the kind that is asked for."""
    if request.param == "sqlite":
        async with locked_file(tmp_path / "records.db") as shaky:
            yield shaky
        return
    server: Server = request.getfixturevalue({"redis": "shared", "postgresql": "postgres"}[request.param])
    async with ChaosProxy("127.0.0.1", server.port) as proxy:
        url = server.url.replace(f":{server.port}", f":{proxy.port}")

        async def away() -> None:
            await proxy.refuse()
            proxy.cut()

        yield Shaky(url, server.url, away, proxy.heal, lambda: proxy.cut_before(1))


@asynccontextmanager
async def locked_file(path: Path) -> AsyncIterator[Shaky]:
    """Take a file away by a transaction of another program."""
    async with open_store(f"sqlite:///{path}"):
        other = sqlite3.connect(path, isolation_level=None, timeout=5.0)

    async def away() -> None:
        other.execute("BEGIN EXCLUSIVE")

    async def back() -> None:
        other.execute("ROLLBACK")

    try:
        yield Shaky(f"sqlite:///{path}", f"sqlite:///{path}", away, back, None)
    finally:
        other.close()


@pytest.fixture
def play(broker: Server, store: Shaky, tmp_path: Path) -> Play:
    """Make a play with the store beside the broker."""
    play = play_on(broker, tmp_path)
    play.store = store.direct
    return play


PAIRS = [
    ("redis", "redis"),
    ("nats", "redis"),
    ("rabbitmq", "redis"),
    ("rabbitmq", "postgresql"),
    ("rabbitmq", "sqlite"),
]
beside = pytest.mark.parametrize(("broker", "store"), PAIRS, indirect=True)


@beside
async def test_results_wait_for_their_store(play: Play, store: Shaky, tmp_path: Path):
    """F35, F63: no end before its result is stored: the job stays leased meanwhile, starts and ends once."""
    async with client_of(play) as app, worker_of(play, tmp_path, store=store.url) as worker:
        job = await app.tasks["work"].enqueue(1, 0.3)
        await until(lambda: play.count("start") == 1, "a start")
        await store.away()
        await until(lambda: play.count("end") == 1, "an end")
        await anyio.sleep(2.5)  # leases last 1 s
        assert play.count("settled") == 0
        assert worker.status is None
        await store.back()
        assert await job.result(timeout=20) == 1
        if store.lose_answer is not None:
            second = await app.tasks["work"].enqueue(2, 0.3)
            await until(lambda: play.count("start") == 2, "a start")
            store.lose_answer()
            assert await second.result(timeout=20) == 2
        await play.check()
    assert play.count("start") == play.count("settled", verdict="ack") == (1 if store.lose_answer is None else 2)


@beside
async def test_keys_need_their_store(play: Play, store: Shaky, tmp_path: Path):
    """F65: without its store a key is not claimed and nothing is sent; a job with a key does not start, but later."""
    poor = App(open_backend(play.url), store=open_store(store.url), send_timeout=2.0)
    declare_faults(poor, play.history, play.queue, "poor")
    async with client_of(play) as app, poor, worker_of(play, tmp_path, store=store.url):
        job = await app.tasks["keyed"].using(delay=0.5).enqueue(f"{play.queue}/1")
        await store.away()
        with pytest.raises(TaskcoreError) as refused:
            await poor.tasks["keyed"].enqueue(f"{play.queue}/2")
        assert isinstance(refused.value, BrokerUnavailable), refused.value
        await anyio.sleep(1.5)
        assert play.count("start") == 0
        await store.back()
        assert await job.result(timeout=20) == f"{play.queue}/1"
        await play.check()
    assert play.count("start") == 1


@beside
@pytest.mark.parametrize("point", ["hold.taken", "run.returned"])
async def test_keys_of_dead_holders(play: Play, store: Shaky, tmp_path: Path, point: str):
    """F66: a worker dies that holds a key: its job runs elsewhere, and the key has the one outcome of that run."""
    async with client_of(play) as app:
        job = await app.tasks["keyed"].enqueue(f"{play.queue}/1")
        async with play.worker(tmp_path, "dying", script=SCRIPT, crash_at=point) as worker:
            assert await worker.wait() == CRASHED
        async with worker_of(play, tmp_path, "heir"):
            assert await job.result(timeout=20) == f"{play.queue}/1"
            twin = await app.tasks["keyed"].enqueue(f"{play.queue}/1")
            assert (twin.id, await twin.result(timeout=5)) == (job.id, f"{play.queue}/1")
            await play.check(duplicates_allowed=1)
    starts = [entry.facts["fence"] for entry in play.merged().entries if entry.kind == "start"]
    assert starts == sorted(set(starts))
    assert len(starts) == (1 if point == "hold.taken" else 2)
