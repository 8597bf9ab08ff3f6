"""What a store never takes, or gives back unreadable, ends the job that it belongs to, and no other job (C20, C25)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, Retry, StoreRefused, UnreadableRecord
from taskcore.records.names import key_name, outcome_name, start_name
from taskcore.store import ANY
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import FaultyBackend, letters
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class PickyStore(MemoryStore):
    """A store that takes no value above 2,000 bytes and no unwanted one, and refuses a batch with one."""

    async def put_many(self, writes):
        """Refuse the whole batch for one write."""
        for write in writes:
            if len(write.value or b"") > 2_000 or b"unwanted" in (write.value or b""):
                raise StoreRefused(f"{write.key[:20]}… is too large")
        return await super().put_many(writes)


@pytest.fixture
def store():
    """Make a store."""
    return PickyStore()


@pytest.fixture
def app(store: PickyStore):
    """Make an app on the store."""
    return App("memory://", store=store, clock=clock, retry=Retry(attempts=1))


async def test_outcomes_that_are_too_large(app: App):
    """Of a batch, jobs with outcomes that the store refuses are dead letters with the reason; the others succeed."""

    @app.task
    async def write(size: int) -> str:
        return "x" * size

    async with app.running():
        jobs = await app.enqueue_many([write.call(size) for size in (1, 5_000, 2, 9_000, 3)])
        assert [await jobs[index].result(timeout=60) for index in (0, 2, 4)] == ["x", "xx", "xxx"]
        await app.drain(timeout=60)
        dead = await letters(app)
        assert sorted(letter.job_id for letter in dead) == sorted([jobs[1].id, jobs[3].id])
        assert all("cannot be stored" in letter.reason for letter in dead)
        assert await (await write.enqueue(4)).result(timeout=60) == "xxxx"


async def test_key_that_the_store_refuses(app: App):
    """An enqueue with a key that the store does not take is an error of the caller, and nothing is sent."""

    @app.task(key="name")
    async def greet(name: str) -> str:
        return name

    async with app.running():
        with pytest.raises(StoreRefused):
            await greet.enqueue("unwanted")
        assert await (await greet.enqueue("Ada")).result(timeout=60) == "Ada"


@pytest.mark.parametrize("kind", ["outcome", "marker", "key"])
@pytest.mark.parametrize("garbage", [b"garbage", b"", b"[1, 2]", b"\xff\xfe", b'{"state": "flying"}', b"1e999"])
async def test_records_that_cannot_be_read(kind: str, garbage: bytes):
    """A job whose record is garbage is a dead letter that says so; neighbours run, and the record stays as it is."""
    store = MemoryStore()
    backend = FaultyBackend()
    app = App(backend, store=store, clock=clock, retry=Retry(attempts=1))
    ran = []

    @app.task(name="work")
    async def work(number: int) -> int:
        ran.append(number)
        return number

    async with app:
        job = await work.using(key="k" if kind == "key" else None).enqueue(1)
        name = {"outcome": outcome_name(job.id), "marker": start_name(job.id, 0), "key": key_name("work", "k")}[kind]
        await store.put(name, garbage, expect=ANY, keep=None)
        async with app.components.backend.consume(["default"], lease=1.0) as source:  # a worker that dies with the job
            assert await source.receive(1)
        await anyio.sleep(2)
        async with app.running():
            assert await (await work.enqueue(2)).result(timeout=60) == 2
            await app.drain(timeout=60)
        [letter] = await letters(app)
        assert letter.job_id == job.id
        assert "cannot be read" in letter.reason
        assert ran == [2]
        record = await store.get(name)
        assert record is not None
        assert record.value == garbage
        if kind == "outcome":
            for ask in (job.status, job.outcome, job.result):
                with pytest.raises(UnreadableRecord, match="outcome of a job"):
                    await ask()
        if kind == "key":
            with pytest.raises(UnreadableRecord, match="idempotency key"):
                await work.using(key="k").enqueue(1)


async def test_codec_that_raises_anything(store: PickyStore):
    """A codec of the user's that raises something else than it may makes a dead letter, and the worker goes on."""
    from taskcore.envelope import EnvelopeCodec  # noqa: PLC0415 - only here

    class Moody(EnvelopeCodec):
        def decode(self, data: bytes):  # type: ignore[override]
            if b"moody" in data:
                raise ZeroDivisionError("no key for this tenant")
            return EnvelopeCodec.decode(data)

    app = App("memory://", store=store, clock=clock, codec=Moody())

    @app.task(name="say")
    async def say(word: str) -> str:
        return word

    async with app.running():
        await say.enqueue("moody")
        assert await (await say.enqueue("calm")).result(timeout=60) == "calm"
        await app.drain(timeout=60)
        assert (await app.stats()).dead == 1
