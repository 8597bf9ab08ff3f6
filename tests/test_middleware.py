"""Middleware: code around sending, running and settling; it sees everything, and harms no job."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from taskcore import App, JobFailed, current
from taskcore.control import Snooze
from taskcore.lifecycle import ACK, Raised, Returned
from taskcore.middleware import Middleware
from tests.support.faulty import worker_of
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class Writes(Middleware):
    """Writes down what it sees, under its name."""

    def __init__(self, name, seen):
        self.name = name
        self.seen = seen

    async def send(self, calls, call_next):
        """Record a call before and after sending."""
        self.seen.append((self.name, "send", len(calls)))
        jobs = await call_next(calls)
        self.seen.append((self.name, "sent", len(jobs)))
        return jobs

    async def run(self, job, call_next):
        """Record a call before and after the function."""
        self.seen.append((self.name, "run", job.id))
        outcome = await call_next()
        self.seen.append((self.name, "ran", type(outcome)))
        return outcome

    async def commit(self, jobs, call_next):
        """Record a call before and after the verdicts."""
        self.seen.append((self.name, "settle", [one.verdict for one in jobs]))
        await call_next()
        self.seen.append((self.name, "settled", [type(one.outcome) for one in jobs]))


def make(*middleware, **options):
    """Make an app with a task that doubles, or fails."""
    app = App("memory://", clock=clock, middleware=middleware)

    @app.task(name="double", retry=None, **options)
    async def double(number: int) -> int:
        if number < 0:
            raise ValueError(number)
        return 2 * number

    return app, double


async def test_the_first_is_outermost():
    """Each kind of middleware is called around its step, in the order in which it was given."""
    seen = []
    app, double = make(Writes("outer", seen), Writes("inner", seen))
    async with app.running():
        job = await double.enqueue(4)
        assert await job.result(timeout=5) == 8
        await anyio.sleep(0.1)
    assert seen == [
        ("outer", "send", 1),
        ("inner", "send", 1),
        ("inner", "sent", 1),
        ("outer", "sent", 1),
        ("outer", "run", job.id),
        ("inner", "run", job.id),
        ("inner", "ran", Returned),
        ("outer", "ran", Returned),
        ("outer", "settle", [ACK]),
        ("inner", "settle", [ACK]),
        ("inner", "settled", [Returned]),
        ("outer", "settled", [Returned]),
    ]


async def test_the_error_of_a_function_is_an_outcome():
    """Middleware learns of an error from the outcome, and may answer another one."""

    class Snoozes(Middleware):
        tries = 0

        async def run(self, job, call_next):
            outcome = await call_next()
            self.tries += 1
            assert isinstance(outcome, Raised)
            return Raised(Snooze(1.0), outcome.record) if self.tries == 1 else outcome

    app, double = make(snoozes := Snoozes())
    async with app.running():
        with pytest.raises(JobFailed) as caught:
            await (await double.enqueue(-1)).result(timeout=5)
    assert (snoozes.tries, caught.value.reason) == (2, "exhausted")


async def test_a_call_can_be_changed():
    """Middleware may add headers to a call; the job sees them."""

    class Adds(Middleware):
        async def send(self, calls, call_next):
            options = [msgspec.structs.replace(call.options, headers={"trace": "7"}) for call in calls]
            return await call_next(
                [msgspec.structs.replace(call, options=each) for call, each in zip(calls, options, strict=True)]
            )

    app = App("memory://", clock=clock, middleware=[Adds()])

    @app.task(name="look")
    async def look() -> str:
        return current().headers["trace"]

    async with app.running():
        assert await (await look.enqueue()).result(timeout=5) == "7"
        assert [await job.result(timeout=5) for job in await app.enqueue_many([look.call(), look.call()])] == ["7", "7"]


async def test_an_error_around_a_run_is_the_job_s():
    """Middleware that raises around a run fails this job; others go on."""

    class Refuses(Middleware):
        async def run(self, job, call_next):
            outcome = await call_next()
            if outcome == Returned(b"2"):
                raise PermissionError("not this one")
            return outcome

    app, double = make(Refuses())
    async with app.running():
        bad, good = await double.enqueue(1), await double.enqueue(2)
        with pytest.raises(JobFailed, match="not this one"):
            await bad.result(timeout=5)
        assert await good.result(timeout=5) == 4


@pytest.mark.parametrize("before", [True, False])
async def test_an_error_around_settling_harms_no_job(before, caplog):
    """Jobs whose middleware raises around settling are settled without it, once."""

    class Breaks(Middleware):
        async def commit(self, jobs, call_next):
            if before:
                raise RuntimeError("broken")
            await call_next()
            raise RuntimeError("broken")

    app, double = make(Breaks())
    async with app.running():
        assert await (await double.enqueue(1)).result(timeout=5) == 2
        await app.drain(timeout=5)
    assert app.counters["job.succeeded"] == 1
    assert "middleware failed around settling" in caplog.text


async def test_an_interrupted_job_interrupts_its_middleware():
    """A time limit cancels the middleware around the run; the job is timed out all the same."""
    ends = []

    class Watches(Middleware):
        async def run(self, job, call_next):
            try:
                return await call_next()
            finally:
                ends.append(job.id)

    app = App("memory://", clock=clock, middleware=[Watches()])

    @app.task(name="slow", timeout=1.0, retry=None)
    async def slow() -> None:
        await anyio.sleep(60)

    async with app.running():
        job = await slow.enqueue()
        with pytest.raises(JobFailed, match="timeout of 1"):
            await job.result(timeout=5)
    assert ends == [job.id]


async def test_middleware_without_methods_costs_nothing():
    """Methods that are not overridden are not called: the parts are as in an app without middleware."""
    plain, with_middleware = make()[0], make(Middleware())[0]
    async with plain, with_middleware:
        assert type(with_middleware._host.client) is type(plain._host.client)
    worker = worker_of(with_middleware)
    assert worker._performer.run_with == worker._performer._run
    assert worker._settler.commit_with == worker._settler.commit
