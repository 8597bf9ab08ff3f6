"""The worker when all goes well: functions of every kind, retries, limits, order."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from taskcore import App, Expired, JobFailed, NotRunning, Reject, Retry, RetryLater, Snooze, current
from tests.support.faulty import letters
from tests.support.virtual import EPOCH, clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def app():
    """Make an app whose wall clock is the virtual one."""
    return App("memory://", clock=clock)


async def test_success(app):
    """What the function returns is what the caller gets."""

    @app.task
    async def greet(name: str, *, times: int = 1) -> str:
        return ", ".join([f"hello {name}"] * times)

    async with app.running():
        job = await greet.enqueue("Ada", times=2)

        assert await job.result(timeout=5) == "hello Ada, hello Ada"
        assert app.counters["job.succeeded"] == 1


async def test_a_job_sees_itself(app):
    """current() says which job runs, with everything that its caller gave it."""
    seen = []

    @app.task(queue="mail")
    async def look() -> None:
        seen.append(current())

    async with app.running():
        sent = look.using(headers={"tenant": "7"}, correlation_id="c", expires=60.0)
        job = await sent.enqueue()
        await job.result(timeout=5)

    [context] = seen
    assert (context.job_id, context.task, context.queue) == (job.id, look.name, "mail")
    assert (context.attempt, context.crashes, context.fence, context.key) == (1, 0, 1, None)
    assert (context.headers, context.correlation_id) == ({"tenant": "7"}, "c")
    assert context.enqueued_at == pytest.approx(EPOCH, abs=1.0)
    assert context.deadline == context.enqueued_at + 60.0


def test_no_job_runs_here():
    """current() outside of a job says so."""
    with pytest.raises(NotRunning, match="outside of a job"):
        current()


async def test_concurrent_jobs_see_their_own_context(app):
    """Jobs that run at the same time, and one after the other in one slot, each see their own id."""
    seen = {}

    @app.task
    async def look(number: int) -> None:
        before = current().job_id
        await anyio.sleep(0.1)
        assert before == current().job_id
        seen[number] = before

    async with app.running(concurrency=3):
        jobs = await app.enqueue_many(look.call(number) for number in range(10))
        await app.drain(timeout=10)

    assert seen == {number: job.id for number, job in enumerate(jobs)}


async def test_waits_of_a_retried_job(app):
    """Retry k starts exactly as long after the failure as the policy says; days pass in no time (C17)."""
    starts = []

    @app.task(retry=Retry(attempts=8, base=3600.0, factor=4.0, cap=86_400.0, jitter="none"))
    async def fail() -> None:
        starts.append((anyio.current_time(), current().attempt))
        raise ConnectionError("again")

    async with app.running():
        job = await fail.enqueue()
        with pytest.raises(JobFailed, match="exhausted"):
            await job.result()

    times = [time for time, _ in starts]
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == pytest.approx([3600.0, 14_400.0, 57_600.0, 86_400.0, 86_400.0, 86_400.0, 86_400.0])
    assert [attempt for _, attempt in starts] == list(range(1, 9))


async def test_full_jitter_spreads_a_storm(app):
    """A thousand jobs that fail at once do not come back at once (F70)."""
    starts = []

    @app.task(retry=Retry(attempts=2, base=10.0))
    async def fail() -> None:
        if current().attempt == 2:
            starts.append(anyio.current_time())
        else:
            raise ConnectionError

    async with app.running(concurrency=1000):
        began = anyio.current_time()
        await app.enqueue_many([fail.call() for _ in range(1000)])
        await app.drain(timeout=60)

    bins = [sum(0 <= start - began - second < 1 for start in starts) for second in range(10)]
    assert len(starts) == 1000
    assert max(bins) < 3 * 100
    assert min(bins) > 100 / 3


async def test_retry_later(app):
    """The function chooses the wait; the attempt counts."""
    starts = []

    @app.task(retry=2)
    async def wait() -> None:
        starts.append((anyio.current_time(), current().attempt))
        raise RetryLater(after=1234.0)

    async with app.running():
        job = await wait.enqueue()
        with pytest.raises(JobFailed, match="exhausted"):
            await job.result()

    (first, one), (second, two) = starts
    assert second - first == pytest.approx(1234.0)
    assert (one, two) == (1, 2)


async def test_snooze(app):
    """Sleeping uses no attempt, however often."""
    seen = []

    @app.task(retry=None)
    async def sleepy() -> str:
        seen.append(current().attempt)
        if len(seen) < 20:
            raise Snooze(after=3600.0)
        return "awake"

    async with app.running():
        began = anyio.current_time()

        assert await (await sleepy.enqueue()).result() == "awake"
        assert anyio.current_time() - began == pytest.approx(19 * 3600.0)
    assert seen == [1] * 20


async def test_reject(app):
    """A rejected job is dead after one attempt, with the function's own words."""

    @app.task
    async def refuse() -> None:
        raise Reject("card is stolen")

    async with app.running():
        job = await refuse.enqueue()
        with pytest.raises(JobFailed, match="rejected: card is stolen"):
            await job.result(timeout=5)
        [letter] = await letters(app)

    assert letter.reason == "rejected: card is stolen"
    assert letter.trail.attempts == 1


async def test_delay(app):
    """A delayed job starts when it is due, not before (C16)."""
    starts = []

    @app.task
    async def note() -> None:
        starts.append(anyio.current_time())

    async with app.running():
        began = anyio.current_time()
        await (await note.using(delay=3 * 86_400.0).enqueue()).result()

    assert [start - began for start in starts] == pytest.approx([3 * 86_400.0])
    assert starts[0] - began >= 3 * 86_400.0 - 1e-6


async def test_expired_in_the_queue(app):
    """A job whose deadline passed before it could start never starts, and its caller gets the reason (C15)."""
    starts = []

    @app.task
    async def note() -> None:
        starts.append(current().job_id)

    async with app:
        late = await note.using(expires=10.0).enqueue()
        still = await note.using(expires=11.0).enqueue()
        await anyio.sleep(10.5)
        async with app.running():
            assert await late.outcome(timeout=5) == Expired()
            await still.result(timeout=5)

    assert starts == [still.id]
    assert app.counters["job.expired"] == 1


async def test_expired_between_attempts(app):
    """The deadline holds for every start, not only the first."""
    starts = []

    @app.task(retry=Retry(base=10.0, jitter="none"))
    async def fail() -> None:
        starts.append(current().attempt)
        raise ConnectionError

    async with app.running():
        job = await fail.using(expires=15.0).enqueue()

        assert await job.outcome(timeout=60) == Expired()
    assert starts == [1, 2]


async def test_deadline_does_not_interrupt(app):
    """A deadline keeps a job from starting; one that runs already may finish."""

    @app.task
    async def slow() -> str:
        await anyio.sleep(20.0)
        return "done"

    async with app.running():
        assert await (await slow.using(expires=10.0).enqueue()).result(timeout=60) == "done"


async def test_concurrency(app):
    """No more jobs run at once than allowed, and no fewer."""
    running, peaks = 0, []

    @app.task
    async def work() -> None:
        nonlocal running
        running += 1
        peaks.append(running)
        await anyio.sleep(1.0)
        running -= 1

    async with app.running(concurrency=7):
        began = anyio.current_time()
        await app.enqueue_many([work.call() for _ in range(70)])
        await app.drain(timeout=60)

        assert anyio.current_time() - began == pytest.approx(10.0, abs=0.2)
    assert max(peaks) == 7


async def test_queues_are_served_in_order(app):
    """Jobs of an earlier queue start first."""
    order = []

    async def note(word: str) -> None:
        order.append(word)

    urgent = app.task(name="urgent", queue="urgent")(note)
    bulk = app.task(name="bulk", queue="bulk")(note)

    async with app:
        await app.enqueue_many([bulk.call("bulk"), bulk.call("bulk"), urgent.call("urgent"), urgent.call("urgent")])
        async with app.running(queues=["urgent", "bulk"], concurrency=1):
            await app.drain(timeout=5)

    assert order == ["urgent", "urgent", "bulk", "bulk"]


async def test_other_queues_are_left_alone(app):
    """A worker takes from the queues that it was given, and from no other."""

    @app.task(queue="mail")
    async def post() -> None: ...

    @app.task(queue="video")
    async def cut() -> None: ...

    async with app.running(queues=["mail"]):
        await post.enqueue()
        await cut.enqueue()
        await app.drain("mail", timeout=5)
        await anyio.sleep(100)

        assert (await app.stats("video")).ready == 1


async def test_group_commit(app):
    """Jobs that end together are settled together: many jobs, few batches."""

    @app.task
    async def nothing() -> None: ...

    async with app.running():
        await app.enqueue_many([nothing.call() for _ in range(2000)])
        await app.drain(timeout=60)

    assert app.counters["job.succeeded"] == 2000
    assert app.counters["settle.complete"] < 200
    assert app.counters["publish.complete"] == 4


async def test_results_that_no_caller_asks_for(app):
    """With keep_result=None nothing is packed or stored; the job succeeds whatever it returns."""

    @app.task(keep_result=None)
    async def odd() -> Any:
        return object()

    async with app.running():
        await odd.enqueue()
        await app.drain(timeout=5)

    assert app.counters["job.succeeded"] == 1


async def test_draining_has_an_end(app):
    """drain() says so when the queues do not get empty."""

    @app.task
    async def wait() -> None:
        await anyio.sleep(100.0)

    async with app.running(grace=0.0):
        await wait.enqueue()
        with pytest.raises(TimeoutError):
            await app.drain(timeout=10)


async def test_quick_jobs_leave_the_loop_its_turns():
    """Jobs that never wait do not keep other tasks of the loop waiting for all of them."""
    app = App("memory://", clock=clock, concurrency=400)
    ran, seen = [], [0]

    @app.task(keep_result=None)
    async def quick() -> None:
        ran.append(None)

    async with app:
        await app.enqueue_many([quick.call() for _ in range(400)])
        async with app.running():
            while len(ran) < 400:
                await anyio.lowlevel.checkpoint()
                seen.append(len(ran))
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 200
