"""What a worker does not understand: parked or buried, never dropped, never in the way of others (C19, C20, C24)."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from taskcore import App, Dead, JobFailed, ResultTimeout
from taskcore.backend import Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.store import ANY
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import letters
from tests.support.virtual import EPOCH, clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

DAY = 86_400.0


@pytest.fixture
def backend():
    """Make a broker that other programs may write to."""
    return MemoryBackend()


@pytest.fixture
def store():
    """Make a store that outlives programs."""
    return MemoryStore()


@pytest.fixture
def app(backend, store):
    """Make a worker's program that knows one task."""
    app = App(backend, store=store, clock=clock, lease=3600.0)
    app.calls = []

    @app.task(name="known", retry=None)
    async def known(number: int) -> int:
        app.calls.append(number)
        return number

    return app


def envelope(**fields) -> bytes:
    """Make an envelope as another program may have written it."""
    whole = {"v": 1, "id": "x", "task": "known", "args": {"number": 1}, "enqueued_at": EPOCH}
    return msgspec.json.encode({**whole, **fields})


async def publish(backend, data: bytes, id: str = "x", trail: bytes = b"") -> None:
    """Put bytes into the default queue."""
    await backend.publish([Outgoing("default", id, data, trail)])


MALFORMED = {
    "empty": b"",
    "not json": b"\x00\xff{{",
    "not utf-8": b'{"v":1,"id":"\xff"}',
    "null": b"null",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "number": b"17",
    "no fields": b"{}",
    "other format": envelope(v=0),
    "wrong types": envelope(id=7),
    "no args": msgspec.json.encode({"v": 1, "id": "x", "task": "known", "enqueued_at": EPOCH}),
    "huge": b'{"v": 1' + b" " * 1_000_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_bytes_that_are_no_envelope_are_buried(app, backend, data):
    """Bytes that are no envelope are a dead letter with exactly these bytes, and delay no other job."""
    async with app.running(concurrency=1):
        before = await app.tasks["known"].enqueue(1)
        await publish(backend, data)
        after = await app.tasks["known"].enqueue(2)
        assert await before.result(timeout=1) + await after.result(timeout=1) == 3
        [letter] = await letters(app)

    assert letter.raw == data
    assert letter.reason.startswith("malformed: ")
    assert (letter.envelope, letter.job_id, letter.task, letter.args) == (None, "", "", None)


UNFIT = {
    "wrong type": {"number": "one"},
    "missing": {},
    "unknown, and wrong type": {"number": "one", "colour": "red"},
    "unknown, and missing": {"colour": "red"},
    "float": {"number": 1.5},
    "list": [1],
    "null": None,
    "text": "number",
    "null number": {"number": None},
}


@pytest.mark.parametrize("args", UNFIT.values(), ids=UNFIT)
async def test_arguments_that_do_not_fit(app, backend, args):
    """The function is never called with arguments outside of its contract; the letter says what was wrong (C24)."""
    async with app.running():
        await publish(backend, envelope(args=args))
        assert await app.tasks["known"].job("x").outcome(timeout=5)
        [letter] = await letters(app)

    assert app.calls == []
    assert letter.reason.startswith("malformed: ")
    assert letter.args == args
    assert (letter.job_id, letter.task) == ("x", "known")
    assert letter.trail.attempts == 0


async def test_a_trail_that_is_none(app, backend):
    """A trail of another make is a dead letter, too, and the envelope is kept."""
    async with app.running():
        await publish(backend, envelope(), trail=b"what happened")
        await anyio.sleep(1)
        [letter] = await letters(app)

    assert app.calls == []
    assert letter.raw == envelope()
    assert letter.reason.startswith("malformed: ")


async def test_envelopes_by_other_programs(app, backend):
    """A program that writes the documented JSON sends a job; fields from the future are ignored."""
    async with app.running():
        await publish(backend, envelope(mood="good", version=1))

        assert await app.tasks["known"].job("x").result(timeout=5) == 1


@pytest.mark.parametrize("data", [envelope(v=3), b'{"v":3,"id":"x"}'], ids=["same fields", "other fields"])
async def test_an_envelope_of_a_newer_format_is_parked(app, backend, data):
    """A job in a newer format waits for a newer worker without using attempts; it is not buried as malformed."""
    parked = []
    app.on_event(lambda event: parked.append(event.facts) if event.name == "job.parked" else None)
    async with app.running():
        await publish(backend, data)
        await anyio.sleep(30)
        assert await letters(app) == []
        stats = await app.stats()
        assert (stats.unfinished, stats.dead) == (1, 0)
    assert {(facts["job_id"], facts["attempt"]) for facts in parked} == {("x", 1)}


async def test_an_unknown_task_waits_for_a_worker_that_knows_it(app, backend, store):
    """A job of an unknown task is parked without using attempts, and runs when a newer worker comes (F47)."""
    newer = App(backend, store=store, clock=clock)

    @newer.task(name="new", retry=None)
    async def new() -> str:
        return "done"

    async with app, newer:
        job = await new.enqueue()
        async with app.running():
            await anyio.sleep(3600)
            assert await letters(app) == []
            assert await job.status() in ("scheduled", "queued")

            async with newer.running():
                assert await job.result(timeout=3600) == "done"
    assert app.counters["job.parked"] < 200


async def test_a_parameter_that_is_not_known_yet(app, backend):
    """A call that fits but for a parameter of a newer version is parked, and a dead letter after park_for."""
    async with app.running():
        await publish(backend, envelope(args={"number": 1, "colour": "red"}))
        await anyio.sleep(DAY - 10)
        assert await letters(app) == []
        assert app.counters["job.parked"]
        await anyio.sleep(80)
        [letter] = await letters(app)
    assert app.calls == []
    assert letter.reason.startswith("unknown task: the payload does not fit known() version 1; colour: unexpected")
    assert letter.trail.attempts == 0


async def test_an_unknown_task_is_buried_after_its_time(app, backend):
    """After park_for, and not before, a job that no worker knew is a dead letter that says so."""
    async with app.running():
        await publish(backend, envelope(task="unknown"))
        await anyio.sleep(DAY - 10)
        assert await letters(app) == []

        await anyio.sleep(80)
        [letter] = await letters(app)
    assert letter.reason == "unknown task: no task 'unknown' here"
    assert letter.raw == envelope(task="unknown")
    assert letter.trail.attempts == 0
    assert letter.trail.parked_since == pytest.approx(EPOCH, abs=1.0)


async def test_park_for_is_a_setting(backend, store):
    """A foreign job is parked as long as the app's setting says."""
    app = App(backend, store=store, clock=clock, park_for=10.0)

    @app.task
    async def known() -> None: ...

    async with app.running():
        await publish(backend, envelope(task="unknown"))
        await anyio.sleep(9)
        assert await letters(app) == []

        await anyio.sleep(10)
        assert len(await letters(app)) == 1


async def test_a_newer_version_waits(app, backend):
    """Arguments that were written for a newer contract are for a newer worker."""
    async with app.running():
        await publish(backend, envelope(version=2))
        await anyio.sleep(100)

        assert app.calls == []
        assert await letters(app) == []
        assert app.counters["job.parked"] > 0


async def test_an_older_version_is_brought_up_to_date(backend, store):
    """Upcasts make an old payload a new one; what fails in them is a dead letter (F48)."""
    app = App(backend, store=store, clock=clock)

    def from_first(args):
        return {"number": args["count"]}

    @app.task(name="known", version=2, upcasts={1: from_first}, retry=None)
    async def known(number: int) -> int:
        return number

    async with app.running():
        await publish(backend, envelope(args={"count": 7}), "x")
        await publish(backend, envelope(id="y", args={"amount": 7}), "y")

        assert await known.job("x").result(timeout=5) == 7
        outcome = await known.job("y").outcome(timeout=5)
    assert isinstance(outcome, Dead)
    assert "upcast from version 1 to 2 failed" in outcome.reason


async def test_callers_learn_about_it(app, backend):
    """A caller that waits for a job that turns out malformed is not left waiting."""
    async with app.running():
        await publish(backend, envelope(args={}))
        with pytest.raises(JobFailed, match="malformed") as caught:
            await app.tasks["known"].job("x").result(timeout=5)

    assert "number: missing" in caught.value.reason


async def test_unknown_jobs_do_not_delay_the_others(app, backend):
    """A queue full of unknown and broken jobs delays the good ones hardly (C20)."""
    async with app.running(concurrency=2):
        for number in range(200):
            await publish(backend, envelope(id=f"{number}", task="unknown"), f"{number}")
            await publish(backend, b"broken", f"b{number}")
        began = anyio.current_time()
        jobs = await app.enqueue_many(app.tasks["known"].call(number) for number in range(10))
        assert [await job.result(timeout=5) for job in jobs] == list(range(10))

        assert anyio.current_time() - began < 0.5


async def test_unknown_tasks_are_told(app, backend, caplog):
    """A parked job is a warning, once for each task and minute: what is unknown, what is known, until when it waits."""
    app.task(name="shop.mail.send")(lambda: None)
    async with app.running():
        with caplog.at_level("WARNING", "taskcore.worker"):
            for number in range(3):
                await publish(backend, envelope(id=str(number), task="mail.send"), id=str(number))
            await publish(backend, envelope(id="next", version=7), id="next")
            await anyio.sleep(30)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == 2
        assert all(word in texts[0] for word in ("mail.send", "known", "UTC", 'did you mean "shop.mail.send"?'))
        assert "version 7" in texts[1]
        await anyio.sleep(120)
        assert len([record for record in caplog.records if "mail.send" in record.getMessage()]) > 1


async def test_callers_learn_that_their_job_is_parked(app, backend, store):
    """A caller that waits for a job of a task that the worker does not know learns it (TC401)."""
    sender = App(backend, store=store, clock=clock)

    @sender.task(name="unknown.work")
    async def work() -> None: ...

    async with app.running(), sender:
        job = await work.enqueue()
        with pytest.raises(ResultTimeout) as error:
            await job.result(timeout=5)
    assert any("has parked jobs of unknown.work" in fact for fact in error.value.facts)
    assert "knows the task" in (error.value.fix or "")


# ── counts of parked jobs ────────────────────────────────────────────────────────────────────────


async def counted(app, parked: int, queue: str = "default") -> None:
    """Wait until the statistics of a queue name so many parked jobs."""
    with anyio.fail_after(30):
        while (stats := await app.stats(queue)).parked != parked:  # noqa: ASYNC110 - the store is asked
            await anyio.sleep(0.2)
    assert stats.scheduled >= parked


async def test_parked_jobs_are_counted(app, backend):
    """The statistics of a queue tell how many of its scheduled jobs wait for a worker that knows their task."""
    async with app.running():
        assert (await app.stats()).parked == 0
        for number in range(5):
            await publish(backend, envelope(id=f"u{number}", task=f"unknown{number % 2}"), id=f"u{number}")
        await app.tasks["known"].using(delay=3600.0).enqueue(1)
        await counted(app, 5)
        await anyio.sleep(300.0)
        await counted(app, 5)
        assert (await app.stats()).scheduled == 6

        @app.task(name="unknown0")
        async def unknown0(number: int) -> None: ...

        await anyio.sleep(61.0)
        await counted(app, 2)


async def test_the_parked_jobs_of_all_workers_are_counted(app, backend, store):
    """Each worker tells its own part; the part of one that has ended counts until its jobs are due."""
    other = App(backend, store=store, clock=clock, source="other worker")

    @other.task(name="elsewhere", queue="other")
    async def elsewhere() -> None: ...

    async with app.running(queues=["default"]), other.running(queues=["default"]):
        for number in range(40):
            await publish(backend, envelope(id=f"u{number}", task="unknown"), id=f"u{number}")
        await counted(app, 40)
        await anyio.sleep(35)  # now they wait for half a minute each time
        await counted(app, 40)
    async with app:
        await counted(app, 40)
        await anyio.sleep(120.0)
        assert (await app.stats()).parked == 0


async def test_without_a_store_parked_jobs_are_not_known(backend):
    """Only a store can tell how many jobs are parked."""
    app = App(backend, store="none", clock=clock)
    async with app:
        assert (await app.stats()).parked is None


async def test_a_foreign_count_is_written_over(app, backend, store):
    """A record that is no count of parked jobs counts nothing and holds up nothing."""
    for value in (b"", b"\xff", b"[1]", b'{"x": [1, 1e400]}', b'{"x": [1, 1e300]}', b'{"x": 5}', b"[" * 100_000):
        await store.put("parked-in/default", value, expect=ANY, keep=None)
        async with app.running():
            assert (await app.stats()).parked == 0
            await publish(backend, envelope(id="u", task="unknown"), id="u")
            await counted(app, 1)
            await app.purge("default")
            await anyio.sleep(61.0)
