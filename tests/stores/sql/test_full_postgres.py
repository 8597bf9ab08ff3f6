"""A PostgreSQL whose disk is full: a worker keeps its jobs, keyed ones too, and ends them when there is room again."""

from __future__ import annotations

import os

import anyio
import pytest

from taskcore import App, BrokerUnavailable, JobFailed, Retry
from taskcore.faults import PostgresServer
from taskcore.stores.sql import PostgresStore
from tests.support.disks import fill, on_disk, small_disk
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client library knows no other loop."""
    return "asyncio"


async def test_a_full_disk_keeps_jobs_until_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    """F26: results without room are an outage whose error names the disk: no job is lost, dead, or run twice."""
    with small_disk(24) as disk:
        async with require(PostgresServer)() as server:
            store = PostgresStore(on_disk(server, disk))
            app, runs = App("memory://", store=store, lease=2.0, retry=Retry(attempts=1)), list[str]()

            @app.task(name="large")
            async def large(word: str) -> str:
                runs.append(word)
                return os.urandom(100_000).hex()

            @app.task(name="fail")
            async def fail(word: str) -> None:
                runs.append(word)
                raise ValueError(word)

            @app.task(name="keyed", key="word")
            async def keyed(word: str) -> str:
                runs.append(word)
                return word

            async with app.running(concurrency=4):
                await (await large.enqueue("first")).result(timeout=15)
                filler = fill(disk)
                jobs = [await large.enqueue(f"job {number}") for number in range(6)]
                bad = await fail.enqueue("bad")
                with anyio.fail_after(20):
                    while "could not extend file" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                        await anyio.sleep(0.02)
                await anyio.sleep(2.5)  # longer than a lease
                stats = await app.stats()
                assert stats.unfinished >= len(jobs)
                assert {letter.job_id async for letter in app.dead_letters.read()} <= {bad.id}
                with pytest.raises(
                    BrokerUnavailable, match=r"could not extend file(.|\n)*make room on the server's disk"
                ):
                    await fill_keys(keyed)
                filler.unlink()
                for job in jobs:
                    assert len(await job.result(timeout=30)) == 200_000
                with pytest.raises(JobFailed):
                    await bad.result(timeout=15)
                assert await (await keyed.enqueue("key")).result(timeout=15) == "key"
                await app.drain(timeout=15)
                assert [letter.job_id async for letter in app.dead_letters.read()] == [bad.id]
            assert sorted(word for word in runs if not word.startswith("key")) == sorted(
                ["first", "bad", *(f"job {number}" for number in range(6))]
            )


async def fill_keys(keyed) -> None:
    """Enqueue keyed jobs until the store has no room for their records."""
    for number in range(2_000):
        await keyed.enqueue(f"key {number} " + os.urandom(200).hex())
