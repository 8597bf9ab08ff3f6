"""Jobs that tell how far they have got: written about once a second, resumed, fenced, pushed until the job's end."""

from __future__ import annotations

from contextlib import aclosing
from itertools import pairwise

import anyio
import pytest

from taskcore import App, NotRunning, ResultNotKept, Retry, RetryLater, StoreRequired, current
from taskcore.progress import JobProgress
from taskcore.progress.record import KEPT_AFTER_CHANGE, StoredProgress, encode_progress, progress_name
from taskcore.store import ANY
from tests.support.faulty import FaultyBackend, FaultyStore, doomed, eventually
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 6.0


@pytest.fixture
def parts():
    """Make what several programs share."""
    return FaultyBackend(), FaultyStore()


def make(parts, **settings):
    """Make an app over these."""
    backend, store = parts
    return App(backend, store=store, clock=clock, lease=LEASE, **{"retry": Retry(attempts=3, base=0.0), **settings})


def count_writes(store, name):
    """Note what is written to records whose names begin so."""
    writes = []

    async def note(batch):
        writes.extend((anyio.current_time(), write.key) for write in batch if write.key.startswith(name))

    store.faults.before["put_many"] = note
    return writes


async def test_progress_is_written_about_once_a_second(parts):
    """A hundred jobs that advance all the time make one batch a second; the first and the last value are among them."""
    app = make(parts)
    writes = count_writes(parts[1], "progress/")

    @app.task
    async def work() -> None:
        progress = current().progress(total=1_000)
        for _ in range(200):
            progress.advance(5)
            await anyio.sleep(0.05)

    async with app.running(concurrency=100):
        jobs = await app.enqueue_many([work.call() for _ in range(100)])
        for job in jobs:
            await job.result(60.0)
            assert (await job.progress()).value == 1_000
        batches = {when for when, _ in writes}
        each = {key: sum(other == key for _, other in writes) for _, key in writes}
    assert len(each) == 100
    assert max(each.values()) <= 13
    assert len(batches) <= 20


async def test_a_watcher_sees_the_first_value_the_last_one_and_the_end(parts):
    """Values are pushed, the first within a tenth of a second; after the last one the iteration ends with the job."""
    app = make(parts)

    @app.task
    async def work() -> str:
        progress = current().progress(total=45, message="working")
        for _ in range(45):
            await anyio.sleep(0.1)
            progress.advance()
        return "done"

    async with app.running():
        began = anyio.current_time()
        job = await work.enqueue()
        seen = [(anyio.current_time() - began, one) async for one in job.progress()]
        assert await job.result(0) == "done"
    assert seen[0][0] < 0.1
    assert isinstance(seen[0][1], JobProgress)
    assert (seen[0][1].value, seen[0][1].total, seen[0][1].message, seen[0][1].attempt) == (0, 45, "working", 1)
    assert [one.value for _, one in seen] == sorted({one.value for _, one in seen})
    assert seen[-1][1].value == 45
    assert 4 <= len(seen) <= 8
    assert all(after - before < 1.2 for (before, _), (after, _) in pairwise(seen))
    assert seen[2][1].rate == pytest.approx(10, rel=0.2)


async def test_a_retried_attempt_goes_on(parts):
    """What an attempt has told before it raised is there for the next, also when that starts at once."""
    app = make(parts)
    starts = []

    @app.task
    async def work() -> list[int]:
        done = []
        async for number in current().progress(range(9), resume=True):
            if not done:
                starts.append(number)
            done.append(number)
            if number == 3 * len(starts) < 9:
                raise ValueError
        return done

    async with app.running():
        job = await work.enqueue()
        assert await job.result(30.0) == [6, 7, 8]
        assert starts == [0, 3, 6]
        last = await job.progress()
    assert (last.value, last.total, last.attempt) == (9, 9, 3)


async def test_without_resume_an_attempt_begins_anew(parts):
    """A new attempt that does not resume replaces what the last one has told."""
    app = make(parts)

    @app.task
    async def work() -> None:
        current().progress(total=5).advance(3 if current().attempt == 1 else 1)
        if current().attempt == 1:
            raise ValueError

    async with app.running():
        job = await work.enqueue()
        await job.result(30.0)
        last = await job.progress()
        assert (last.value, last.attempt) == (1, 2)


async def test_a_killed_worker_leaves_its_progress(parts):
    """The progress of a dead attempt stays readable, and the next worker goes on from at most a second before."""
    app = make(parts)
    resumed = []

    @app.task
    async def work(rows: int) -> int:
        progress = await current().progress(total=rows, resume=True)
        resumed.append(progress.value)
        while progress.value < rows:
            await anyio.sleep(0.1)
            progress.advance()
        return len(resumed)

    async with app:
        job = await work.enqueue(100)
        async with doomed(app):
            await anyio.sleep(5.0)
        dead = await job.progress()
        assert 35 <= dead.value <= 50
        async with app.running():
            assert await job.result(120.0) == 2
        assert dead.value <= resumed[1] <= 50
        assert (await job.progress()).value == 100


async def test_a_zombie_never_overwrites_a_later_start(parts):
    """A start whose lease is lost, and that does not know it yet, is silent when a later start has written."""
    app = make(parts)
    told = anyio.Event()

    @app.task
    async def work() -> None:
        progress = current().progress(total=10)
        fence = current().fence
        await anyio.sleep(1.5)
        later = encode_progress(StoredProgress(value=7, total=10, fence=fence + 1, attempt=1))
        await parts[1].put(progress_name(current().job_id), later, expect=ANY, keep=60.0)
        told.set()
        for _ in range(30):
            progress.advance(0.1)
            await anyio.sleep(0.1)

    async with app.running():
        job = await work.enqueue()
        await told.wait()
        values = [one.value async for one in job.progress()]
        assert values == [7]


async def test_an_earlier_start_gives_way(parts):
    """What an earlier start has written does not keep a later one from telling."""
    app = make(parts)

    @app.task
    async def work() -> None:
        earlier = encode_progress(StoredProgress(value=7, total=10, fence=0))
        await parts[1].put(progress_name(current().job_id), earlier, expect=ANY, keep=60.0)
        current().progress(total=10).advance()

    async with app.running():
        job = await work.enqueue()
        await job.result(10.0)
        assert (await job.progress()).value == 1


async def test_an_outage_of_the_store_harms_no_job(parts):
    """While the store is away the function goes on, and what it told since is written when the store is back."""
    app = make(parts)

    @app.task
    async def work() -> int:
        progress = current().progress(total=100)
        for _ in range(100):
            await anyio.sleep(0.1)
            progress.advance()
        return 1

    async with app.running():
        job = await work.enqueue()
        await anyio.sleep(2.0)
        await parts[1].faults.outage(5.0, "put_many", "put")
        await anyio.sleep(1.5)
        assert (await job.progress()).value >= 70
        assert await job.result(60.0) == 1


async def test_a_record_that_is_none_of_ours_ends_the_telling(parts, caplog):
    """A foreign record in its place is left as it is, with one line in the log, and the job succeeds."""
    app = make(parts)

    @app.task
    async def work() -> int:
        await parts[1].put(progress_name(current().job_id), b"foreign", expect=ANY, keep=60.0)
        progress = current().progress()
        for _ in range(4):
            await anyio.sleep(1.0)
            progress.advance()
        return 1

    async with app.running():
        job = await work.enqueue()
        assert await job.result(60.0) == 1
        assert (await parts[1].get(progress_name(job.id))).value == b"foreign"
    assert caplog.text.count("is not written any more") == 1


async def test_a_log_keeps_lines_of_all_attempts(parts):
    """Lines are kept with their time and attempt, read at once or as they come, until the job's end."""
    app = make(parts)

    @app.task
    async def work() -> None:
        log = current().log
        log("begin\x1b[31m")
        await anyio.sleep(2.5)
        log("%d of %s", current().attempt, "two")
        if current().attempt == 1:
            raise ValueError

    async with app.running():
        job = await work.enqueue()
        lines = [line async for line in job.log()]
        log = await job.log()
    assert [(line.attempt, line.text) for line in lines] == [
        (1, "begin\\x1b[31m"),
        (1, "1 of two"),
        (2, "begin\\x1b[31m"),
        (2, "2 of two"),
    ]
    assert list(log.lines) == lines
    assert log.left_out == 0
    assert lines[1].at - lines[0].at == pytest.approx(2.5, abs=0.1)


async def test_records_end(parts):
    """Progress and log are gone when their time is over, which begins with their last change."""
    app = make(parts)

    @app.task
    async def work() -> None:
        current().progress(total=1).advance()
        current().log("line")

    async with app.running():
        job = await work.enqueue()
        await job.result(10.0)
        await anyio.sleep(KEPT_AFTER_CHANGE - 60.0)
        assert (await job.progress()).value == 1
        await anyio.sleep(120.0)
        assert await job.progress() is None
        assert (await job.log()).lines == ()


async def test_a_long_silence_keeps_the_position(parts, monkeypatch):
    """A job that tells nothing for longer than its record is kept, and then fails, still goes on from its position."""
    kept = 60.0
    monkeypatch.setattr("taskcore.progress.reports.KEPT_AFTER_CHANGE", kept)
    app = make(parts, keep_result=kept)
    found = []

    @app.task
    async def work() -> None:
        progress = await current().progress(total=2, resume=True)
        found.append(progress.value)
        if not progress.value:
            progress.advance()
            await anyio.sleep(3 * kept)
            raise ValueError

    async with app.running():
        job = await work.enqueue()
        await anyio.sleep(2.5 * kept)
        assert (await job.progress()).value == 1
        await eventually(lambda: len(found) == 2, within=2 * kept)
        assert found == [0, 1]


async def test_a_watcher_that_leaves_is_forgotten(parts):
    """A broken loop leaves no watch behind, and a watcher of a job that has ended gets its last value and the end."""
    app = make(parts)

    @app.task
    async def work() -> None:
        current().progress(total=1).advance()
        await anyio.sleep(1.0)

    async with app.running():
        job = await work.enqueue()
        async with aclosing(aiter(job.progress())) as values:
            async for _ in values:
                break
        await eventually(lambda: not len(parts[1].watches))
        await job.result(10.0)
        assert [one.value async for one in job.progress()] == [1]
        await eventually(lambda: not len(parts[1].watches))


async def test_without_a_store_the_first_use_says_so():
    """Reporting and reading raise at once, and the text names what to do."""
    app = App("memory://", store="none", clock=clock, retry=None)
    errors = []

    @app.task
    async def work() -> None:
        for use in (lambda: current().progress(total=3), lambda: current().log("line")):
            try:
                use()
            except StoreRequired as error:
                errors.append(str(error))

    async with app.running():
        job = await work.enqueue()
        await eventually(lambda: len(errors) == 2)
        assert all("give it one: App(" in text for text in errors)
        with pytest.raises(StoreRequired):
            await job.progress()
        with pytest.raises(StoreRequired):
            await job.log()


async def test_an_end_that_cannot_be_seen_is_refused(parts):
    """To follow a job whose result is not kept would never end; reading it once works."""
    app = make(parts)

    @app.task(keep_result=None)
    async def work() -> None:
        current().progress(total=1).advance()

    async with app.running():
        job = await work.enqueue()
        with pytest.raises(ResultNotKept, match="keep_result=3600"):
            async for _ in job.progress():
                pass
        await eventually(job.progress().read)
        assert (await job.progress()).value == 1


async def test_a_job_that_has_ended_tells_nothing(parts):
    """A task that outlives its job gets an error that says so, and nothing of the next job is touched."""
    app = make(parts)
    problems = []

    async def late(context):
        await anyio.sleep(5.0)
        try:
            context.progress(total=3)
        except NotRunning as error:
            problems.append(str(error))

    @app.task
    async def first() -> None:
        outside.start_soon(late, current())

    async with anyio.create_task_group() as outside, app.running():
        await (await first.enqueue()).result(10.0)
        await eventually(lambda: problems)
    assert "has ended" in problems[0]


async def test_progress_of_a_job_that_comes_later(parts):
    """A job that asks for another time, without an attempt, goes on from its position too."""
    app = make(parts)
    found = []

    @app.task
    async def work() -> None:
        progress = await current().progress(resume=True)
        found.append(progress.value)
        progress.advance()
        if len(found) < 3:
            raise RetryLater(20.0)

    async with app.running():
        await (await work.enqueue()).result(120.0)
    assert found == [0, 1, 2]
