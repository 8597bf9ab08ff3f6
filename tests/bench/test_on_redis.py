"""``taskcore bench`` on a real Redis: with processes, kills, relays; and as a guest on a server that has other work."""

from __future__ import annotations

import anyio
import msgspec
import pytest
from redis.asyncio import Redis

from taskcore import App
from taskcore.bench import QUICK, SCENARIOS, Figure, Skipped, measure, named_environment, private_environment, recovery
from taskcore.faults import RedisServer
from tests.backends.conftest import shared  # noqa: F401 - a fixture
from tests.backends.redis.conftest import anyio_backend, own  # noqa: F401 - fixtures
from tests.support import real

TINY = msgspec.structs.replace(
    QUICK, seconds=0.02, processes=(1, 2), arrivals=((200.0, 0.5),), lease=1.0, killed_jobs=1_000, outage=1.5,
    outage_jobs=60.0, idle=0.5, stored=500, payloads=(100,), scheduled=20,
)  # fmt: skip

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture(scope="module", autouse=True)
def redis_is_here() -> None:
    """Skip where Redis is missing, unless this run requires it."""
    real.require(RedisServer)


class Silent:
    """No display."""

    def begins(self, broker, scenario, done, all):
        """Do nothing."""

    def ends(self, broker, scenario, seconds, outcome):
        """Do nothing."""


async def figures_of(name: str) -> dict[str, Figure]:
    """Measure one scenario on a private server; return its figures by name."""
    records: list[Figure | Skipped] = []
    await measure(
        {"redis": lambda: private_environment("redis", TINY)}, {name: SCENARIOS[name]}, Silent(), records.append
    )
    for record in records:
        assert isinstance(record, Figure), record
    return {record.name: record for record in records if isinstance(record, Figure)}


async def test_drains_by_processes_lose_nothing():
    """One and two processes share the jobs, each job ends once, and costs are reported."""
    figures = await figures_of("drain")
    assert {"1 process", "2 processes", "with results", "worker CPU", "worker memory, at most"} <= figures.keys()
    for name in ("1 process", "2 processes"):
        assert figures[name].facts["lost"] == figures[name].facts["duplicated"] == 0
        assert figures[name].median > 100
    assert 10 < figures["worker memory, at most"].median < 150


async def test_a_killed_worker_costs_its_lease():
    """Jobs of a killed worker come back after the lease, not before, and all of them."""
    [figure] = (await figures_of("worker killed")).values()
    facts = figure.facts
    assert facts["lost"] == 0
    assert facts["in_hand"] > 0
    assert facts["restarted"] > 0
    assert figure.median > TINY.lease * 0.7
    assert sum(facts["timeline"]) == facts["sent"] + facts["duplicated"]


async def test_a_killed_broker_loses_nothing_that_was_accepted():
    """Every accepted job ends; those that were refused meanwhile were repeated under the same ids."""
    figures = await figures_of("broker killed")
    facts = figures["jobs end again, after it is back"].facts
    assert facts["lost"] == 0
    assert facts["sent"] == int(TINY.outage * TINY.outage_jobs)
    assert facts["repeats"] > 0
    assert facts["unknown"] == 0


async def test_a_broker_that_does_not_come_back_ends_the_scenario(monkeypatch):
    """Senders that repeat until they are accepted are given up in the end, and the report says so."""

    async def stay_away(server: RedisServer) -> None:
        """Keep a killed server down."""

    async with private_environment("redis", TINY) as environment:
        monkeypatch.setattr(recovery, "BACK_WITHIN", 0.2)
        monkeypatch.setattr(RedisServer, "start", stay_away)
        with pytest.raises(TimeoutError, match=r"not back within 0.2 s: \d+ of 90 jobs were accepted"):
            await SCENARIOS["broker killed"](environment)


async def test_an_idle_worker_is_watched_through_a_relay():
    """Requests are counted where they pass."""
    figures = await figures_of("idle")
    assert 0 <= figures["requests to the broker"].median < 50
    assert figures["worker CPU"].median < 60


async def test_storage_is_measured_before_and_after():
    """Queued jobs take up something on disk."""
    figures = await figures_of("storage")
    assert figures["disk while queued"].median > 100


async def test_latency_has_a_curve_and_no_early_starts():
    """Every job of the open loop is there, and none has started before it was to be sent."""
    figures = await figures_of("latency")
    p50 = figures["200/s, p50"]
    assert p50.facts["lost"] == 0
    assert p50.facts["measured"] == 100
    assert 0 < p50.median <= figures["200/s, p99"].median
    assert p50.facts["curve"] == sorted(p50.facts["curve"])


async def test_a_server_in_use_is_left_unchanged():
    """On a server in use: its queue is as it was, the queues of the bench are gone, and nothing is killed."""
    async with RedisServer() as server:
        theirs = App(server.url)

        @theirs.task(name="theirs", queue="theirs")
        async def job(number: int) -> None:
            pass

        async with theirs, Redis.from_url(server.url) as redis:
            await theirs.enqueue_many([job.call(number) for number in range(10)])
            before = set(await redis.keys("*"))
            records: list[Figure | Skipped] = []
            scenarios = {name: run for name, run in SCENARIOS.items() if name not in ("backlog", "latency")}
            await measure(
                {"it": lambda: named_environment(server.url, TINY, None)}, scenarios, Silent(), records.append
            )
            assert (await theirs.stats("theirs")).ready == 10
            assert list(await theirs.components.backend.admin.queues()) == ["theirs"]
            ends_in = {key: await redis.ttl(key) for key in await redis.keys("*") if key not in before}
            assert not {key: seconds for key, seconds in ends_in.items() if not 0 <= seconds <= 300}
        skipped = {record.scenario for record in records if isinstance(record, Skipped)}
        assert skipped == {"broker killed", "storage"}
        assert server.running


async def test_an_interrupted_run_leaves_no_queue():
    """Whatever ends the measuring, Ctrl-C included, the queues that it made are deleted."""
    async with RedisServer() as server, App(server.url) as app:
        with anyio.CancelScope() as scope:
            async with named_environment(server.url, TINY, None) as environment:
                async with environment.app(queue := environment.new_queue()) as ours:
                    await ours.tasks["bench.noop"].enqueue("000000000")
                assert list(await app.components.backend.admin.queues()) == [queue]
                scope.cancel()
                await anyio.sleep(1)
        assert list(await app.components.backend.admin.queues()) == []
