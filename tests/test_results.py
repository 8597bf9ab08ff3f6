"""Outcomes: typed, pushed, once, and gone after their time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import anyio
import msgspec
import pydantic
import pytest

from taskcore import (
    App,
    Dead,
    Expired,
    Failed,
    JobExpired,
    JobFailed,
    NotRunning,
    ResultNotKept,
    ResultTimeout,
    Retry,
    StoreRequired,
    Succeeded,
)
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import FaultyBackend, FaultyStore
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def store():
    """Make a store that counts."""
    return FaultyStore()


@pytest.fixture
def app(store):
    """Make an app whose tasks are tried once."""
    return App(FaultyBackend(), store=store, clock=clock, retry=Retry(attempts=1))


@dataclass
class Receipt:
    """A dataclass."""

    number: int
    amount: Decimal
    when: datetime


class Parcel(pydantic.BaseModel):
    """A pydantic model."""

    receipts: list[int]
    label: str | None = None


class Point(msgspec.Struct):
    """A struct."""

    x: int = 0


class CardDeclined(Exception):
    """An error that is part of the contract."""


NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Receipt, Receipt(1, Decimal("9.90"), NOON)),
        (Parcel, Parcel(receipts=[1, 2])),
        (Point, Point(7)),
        (list[Point], [Point(1), Point(2)]),
        (dict[str, set[int]], {"a": {1, 2}}),
        (bytes, b"\x00\xff"),
        (str | None, None),
        (None, None),
    ],
)
async def test_results_come_back_as_they_went(app, kind, value):
    """The caller gets a value of the annotated type, equal to what was returned."""

    async def give():
        return value

    give.__annotations__["return"] = kind
    task = app.task(name="give")(give)
    async with app.running():
        result = await (await task.enqueue()).result(timeout=5)

    assert result == value
    assert type(result) is type(value)


async def test_success_as_a_value(app):
    """outcome() gives something to match on."""

    @app.task
    async def good() -> int:
        return 7

    async with app.running():
        assert await (await good.enqueue()).outcome(timeout=5) == Succeeded(7)


async def test_declared_errors(app):
    """An error in `raises` comes back typed: in outcome(), and as error and cause of JobFailed."""

    @app.task(raises=(CardDeclined,))
    async def pay() -> None:
        raise CardDeclined("no money", 7)

    async with app.running():
        job = await pay.enqueue()
        outcome = await job.outcome(timeout=5)
        with pytest.raises(JobFailed, match=r"failed with .*CardDeclined") as caught:
            await job.result(timeout=5)
        assert await job.status() == "failed"

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, CardDeclined)
    assert outcome.error.args == ("no money", 7)
    assert outcome.record.message == "('no money', 7)"
    assert caught.value.error.args == caught.value.__cause__.args == ("no money", 7)
    assert caught.value.job_id == job.id


async def test_other_errors(app):
    """Any other error arrives as text: type, message, place."""

    @app.task
    async def fail() -> None:
        raise CardDeclined("no")

    async with app.running():
        job = await fail.enqueue()
        outcome = await job.outcome(timeout=5)
        with pytest.raises(JobFailed, match="is dead: exhausted") as caught:
            await job.result(timeout=5)
        assert await job.status() == "dead"

    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.record.type) == ("exhausted", f"{__name__}.CardDeclined")
    assert caught.value.error is None
    assert (caught.value.reason, caught.value.record) == ("exhausted", outcome.record)
    assert "test_results.py" in str(caught.value)


async def test_expired_as_an_error(app):
    """A job that came too late has no result, and says why."""

    @app.task
    async def late() -> None: ...

    async with app:
        job = await late.using(expires=1.0).enqueue()
        await anyio.sleep(2)
        async with app.running():
            with pytest.raises(JobExpired, match="before its deadline"):
                await job.result(timeout=5)
            assert await job.outcome() == Expired()


async def test_waiting_is_not_polling(app, store):
    """A waiter asks the store once and gets the answer pushed; an hour of waiting costs nothing."""

    @app.task
    async def slow() -> str:
        await anyio.sleep(3600.0)
        return "done"

    async with app.running():
        job = await slow.enqueue()
        await anyio.sleep(1)
        store.faults.calls.clear()
        began = anyio.current_time()
        assert await job.result() == "done"

        assert anyio.current_time() - began == pytest.approx(3599.0)
        assert store.faults.calls["get"] <= 1
    assert not store.watches


async def test_many_waiters(app, store):
    """Every waiter gets the result at the moment when it is there."""

    @app.task
    async def slow() -> int:
        await anyio.sleep(10.0)
        return 7

    got = []

    async def wait(job) -> None:
        got.append((await job.result(), anyio.current_time() - began))

    async with app.running(), anyio.create_task_group() as group:
        began = anyio.current_time()
        job = await slow.enqueue()
        for _ in range(20):
            group.start_soon(wait, job)

    assert got == [(7, pytest.approx(10.0))] * 20
    assert not store.watches


async def test_giving_up(app, store):
    """ResultTimeout says where the job is and how full its queue, so that a reader need not guess."""

    @app.task(queue="mail")
    async def slow() -> None:
        await anyio.sleep(100.0)

    async with app:
        job = await slow.enqueue()
        await slow.using(delay=99.0).enqueue()
        with pytest.raises(ResultTimeout) as queued:
            await job.result(timeout=2)
        async with app.running(grace=0.0):
            with pytest.raises(TimeoutError) as running:
                await job.result(timeout=2)

    assert "the job is: queued" in str(queued.value)
    assert 'queue "mail": 1 ready, 0 running, 1 scheduled' in str(queued.value)
    assert "is a worker listening to it?" in str(queued.value)
    assert queued.value.job_id == job.id
    assert "the job is: running" in str(running.value)
    assert not store.watches


async def test_results_are_kept_for_their_time(app):
    """As long as keep_result says, exactly; then the job is unknown."""

    @app.task(keep_result=100.0)
    async def good() -> int:
        return 7

    async with app.running():
        job = await good.enqueue()
        await app.drain(timeout=5)
        await anyio.sleep(99)
        assert await job.result(timeout=1) == 7
        assert await job.status() == "succeeded"

        await anyio.sleep(2)
        assert await job.status() == "unknown"
        with pytest.raises(ResultTimeout, match="the job is: unknown"):
            await job.result(timeout=1)


async def test_results_that_are_not_kept(app):
    """No caller waits for a result that will never be there: the error comes at once, with the fix."""

    @app.task(keep_result=None)
    async def silent() -> int:
        return 7

    async with app.running():
        job = await silent.enqueue()
        with pytest.raises(ResultNotKept, match=r"keep_result=3600\.0"):
            await job.result()
        with pytest.raises(ResultNotKept):
            await job.outcome()


async def test_results_without_a_store():
    """An app without a store refuses to give results."""
    app = App(MemoryBackend(), clock=clock)

    @app.task
    async def good() -> int:
        return 7

    async with app.running():
        job = await good.enqueue()
        await app.drain(timeout=5)

        with pytest.raises(StoreRequired, match="cannot wait for the result"):
            await job.result()


async def test_status(app):
    """A job's states have one word each."""

    @app.task(retry=Retry(attempts=2, base=10.0, jitter="none"))
    async def work() -> None:
        await anyio.sleep(5.0)
        raise OSError

    async with app:
        job = await work.using(delay=10.0).enqueue()
        statuses = [await job.status()]
        await anyio.sleep(10)
        statuses.append(await job.status())
        async with app.running():
            for seconds in (1, 5, 10, 6):
                await anyio.sleep(seconds)
                statuses.append(await job.status())

    assert statuses == ["scheduled", "queued", "running", "scheduled", "running", "dead"]


async def test_handles_can_be_made_anew(app):
    """A job's id is all that is needed to ask for it."""

    @app.task
    async def good() -> int:
        return 7

    async with app.running():
        job = await good.enqueue()
        again = good.job(job.id)

        assert again == job
        assert hash(again) == hash(job)
        assert await again.result(timeout=5) == 7
        assert await good.job("unknown").status() == "unknown"


async def test_asking_a_closed_app(app):
    """Without a connection there is no answer, and the error says how to get one."""

    @app.task
    async def good() -> int:
        return 7

    async with app:
        job = await good.enqueue()
    for ask in (job.result, job.outcome, job.status, job.cancel, good.enqueue):
        with pytest.raises(NotRunning, match="not open"):
            await ask()


async def test_a_result_that_is_too_large(app):
    """A result above the limit fails its own job, with the way out in the text; its neighbours keep theirs."""
    app = App("memory://", clock=clock, result_limit=1_000)

    @app.task(name="make")
    async def make(size: int) -> str:
        return "x" * size

    async with app.running():
        small, large = await app.enqueue_many([make.call(998), make.call(999)])
        assert len(await small.result(timeout=5)) == 998
        with pytest.raises(JobFailed, match="the result has 1,001 bytes, the limit is 1,000") as caught:
            await large.result(timeout=5)
        [letter] = [letter async for letter in app.dead_letters.read()]
    assert caught.value.reason == "result"
    assert "store it elsewhere and return a reference to it" in letter.trail.errors[-1].message


async def test_a_store_may_have_a_smaller_limit():
    """Where the store's server takes less than the setting says, its limit counts."""

    class Small(MemoryStore):
        max_value = 100

    app = App("memory://", store=Small(), clock=clock)

    @app.task(name="make")
    async def make(size: int) -> str:
        return "x" * size

    async with app.running():
        with pytest.raises(JobFailed, match="the limit is 100"):
            await (await make.enqueue(99)).result(timeout=5)
        assert len(await (await make.enqueue(98)).result(timeout=5)) == 98
