"""Running with an idempotency key: one committed outcome, whichever job dies, waits or comes too late (C7, C10)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, Dead, JobFailed, Retry, current
from taskcore.records.keys import Acquired, Busy, IdempotencyKeys, KeyRecord, decode_key_record
from taskcore.records.names import key_name
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import doomed, letters
from tests.support.shop import HOUR, LEASE, Shop
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def shop():
    """Make two programs that share one key."""
    return Shop()


async def test_a_dead_job_releases_its_key(shop):
    """What failed may be tried again under the same key."""
    async with shop.one.running():
        first = await shop.charge.enqueue("a", -1)
        with pytest.raises(JobFailed):
            await first.result(timeout=5)
        second = await shop.charge.enqueue("a", 5)

        assert await second.result(timeout=5) == "run 2 by one"
    assert second.id != first.id


async def test_an_expired_job_releases_its_key(shop):
    """A job that never started has done nothing, so its key is free."""
    async with shop.one:
        first = await shop.charge.using(expires=1.0).enqueue("a")
        await anyio.sleep(2)
        async with shop.one.running():
            await first.outcome(timeout=5)
            await shop.one.drain(timeout=5)
            second = await shop.charge.enqueue("a")

            assert await second.result(timeout=5) == "run 1 by one"
    assert second.id != first.id


@pytest.mark.parametrize("remade", [False, True])
async def test_a_cancelled_job_releases_its_key(shop, remade):
    """What never starts leaves its key to the next, also if its handle was made anew from its id."""
    async with shop.one:
        first = await shop.charge.enqueue("a")
        handle = shop.charge.job(first.id) if remade else first
        assert await handle.cancel()
        async with shop.one.running():
            second = await shop.charge.enqueue("a")

            assert await second.result(timeout=5) == "run 1 by one"


async def test_poison_releases_its_key():
    """A job that was buried for killing its process does not keep its key."""
    shop = Shop(crashes=1)
    shop.seconds["one"] = HOUR
    async with shop.one:
        first = await shop.charge.enqueue("a")
        async with doomed(shop.one):
            await shop.runs.wait()
        async with shop.two.running():
            assert await shop.two.tasks["charge"].job(first.id).outcome(timeout=2 * LEASE) == Dead("poison", None)
            await shop.two.drain(timeout=5)
            second = await shop.two.tasks["charge"].enqueue("a")

            assert await second.result(timeout=5) == "run 2 by two"


async def test_retries_keep_the_key():
    """Between two attempts the key stays with its job."""
    shop = Shop(retry=Retry(attempts=3, base=100.0, factor=1.0, jitter="none"))
    async with shop.one.running():
        first = await shop.charge.enqueue("a", -1)
        await anyio.sleep(50)
        second = await shop.charge.enqueue("a", -1)

        assert second.id == first.id
        with pytest.raises(JobFailed):
            await first.result()
    assert [order for _, order, _ in shop.runs] == ["a"] * 3
    fences = [fence for *_, fence in shop.runs]
    assert fences == sorted(set(fences))


async def test_a_dead_holder_is_replaced(shop):
    """When the worker that holds a key dies, the next holder of the job takes it with a higher fence (F66)."""
    shop.seconds["one"] = HOUR
    async with shop.one:
        job = await shop.charge.enqueue("a")
        async with doomed(shop.one):
            await shop.runs.wait()
        async with shop.two.running():
            assert await shop.two.tasks["charge"].job(job.id).result(timeout=2 * LEASE) == "run 2 by two"

    (_, _, first), (_, _, second) = shop.runs
    assert first < second


async def test_a_holder_that_lost_its_lease_commits_nothing(shop):
    """A holder that lost its lease cannot overwrite the outcome of the next holder (C7, C10)."""
    shop.seconds |= {"one": 1.5 * LEASE, "two": LEASE}
    async with doomed(shop.one, concurrency=1), shop.two:
        job = await shop.charge.enqueue("a")
        await shop.runs.wait()
        shop.backend.sources[0].frozen = True
        async with shop.two.running():
            assert await job.result(timeout=5 * LEASE) == "run 2 by two"
            await anyio.sleep(LEASE)
            duplicate = await shop.charge.enqueue("a")

            assert await duplicate.result(timeout=1) == "run 2 by two"
    assert shop.one.counters["job.succeeded"] == 0
    assert len(shop.runs) == 2


async def test_two_jobs_with_one_key_have_one_outcome():
    """When two jobs bear one key, because its window was over too soon, one runs, and the other gets its outcome."""
    shop = Shop(key_window=10.0)
    shop.seconds["one"] = 30.0
    async with shop.one:
        first = await shop.charge.enqueue("a")
        await anyio.sleep(11)
        second = await shop.charge.enqueue("a")
        assert first.id != second.id

        async with shop.one.running():
            results = [await job.result(timeout=100) for job in (first, second)]
    assert results == ["run 1 by one"] * 2
    assert len(shop.runs) == 1


async def test_waiting_for_a_key_uses_no_attempt():
    """A job that waits for the holder of its key is neither failed nor retried, however long it takes."""
    shop = Shop(key_window=10.0)
    shop.seconds["one"] = 10 * LEASE
    async with shop.one:
        first = await shop.charge.enqueue("a")
        await anyio.sleep(11)
        second = await shop.charge.enqueue("a")
        async with shop.one.running():
            assert await second.result() == await first.result()
            assert await letters(shop.one) == []
    assert shop.one.counters["job.retried"] == 0
    assert shop.one.counters["job.deferred"] > 0


async def test_a_failure_behind_the_back_of_another_start():
    """A start that fails while another start of its job has the key does not end the job: the other does (C10, C18)."""
    app = App("memory://", clock=clock, lease=LEASE)
    fences: list[int] = []

    @app.task(name="charge", key="order", retry=None)
    async def charge(order: int) -> str:
        fences.append(current().fence)
        if len(fences) > 1:
            return "done"
        store, name = app.components.store, key_name(charge.name, f"{order}")
        claim = decode_key_record((await store.get(name)).value)
        await IdempotencyKeys(store).acquire(name, claim, lease=LEASE, now=clock(), keep=HOUR)
        raise ValueError(order)

    async with app.running():
        job = await charge.enqueue(1)
        assert await job.result(timeout=HOUR) == "done"
        assert await letters(app) == []
    assert fences == [1, 3]


@pytest.mark.parametrize("alive", [True, False])
async def test_a_second_copy_of_a_job_waits_for_its_own_hold(alive):
    """Where a job may be there twice, its own hold is waited for as another job's is; not longer than it lasts."""
    keys = IdempotencyKeys(MemoryStore("memory://"))
    claim = KeyRecord(key="7", job="one", args="")
    times = {"lease": LEASE, "keep": HOUR}
    async with keys._store:
        won = await keys.acquire("key", claim, now=1000.0, **times)
        later = 1000.0 + LEASE + (-1.0 if alive else 1.0)
        twin = await keys.acquire("key", claim, now=later, may_overlap=True, **times)
        assert (won.claim.fence, type(twin)) == (1, Busy if alive else Acquired)
        assert (await keys.acquire("key", claim, now=later, **times)).claim.fence == (2 if alive else 3)
