"""Nothing that a task, an error or a result does can end or wedge the worker (C25); everything is recorded, bounded."""

from __future__ import annotations

import asyncio
import logging
import sys

import anyio
import pytest

from taskcore import App, JobFailed, Reject, Retry, RetryLater, Snooze, TaskcoreError, current
from taskcore.errors import BrokerUnavailable
from tests.support.faulty import letters
from tests.support.virtual import EPOCH, clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def app():
    """Make an app whose tasks are tried once."""
    return App("memory://", clock=clock, retry=Retry(attempts=1))


class Silent(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text today")

    __repr__ = __str__


class Rude(Exception):
    """An error whose text wants to end the program."""

    def __str__(self) -> str:
        raise SystemExit


class Bent(Reject):
    """A Reject that forgot what it is."""

    def __init__(self) -> None:
        pass


class Endless(RetryLater):
    """A RetryLater with a time that is none."""

    def __init__(self) -> None:
        self.after = "soon"


class Sleepless(Snooze):
    """A Snooze without a time."""

    def __init__(self) -> None:
        pass


def recurse():
    """Use up the stack."""
    return recurse()


def chain_of_errors(length: int) -> Exception:
    """Make an error with a long history."""
    error = ValueError("first")
    for number in range(length):
        following = ValueError(f"{number}")
        following.__cause__ = error
        error = following
    return error


def circle() -> Exception:
    """Make two errors that cause each other."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def raising(error):
    """Make a function that raises the error."""

    def throw():
        raise error

    return throw


TROUBLES = {
    "error": (raising(ValueError("no")), "ValueError"),
    "base": (raising(BaseException("no")), "BaseException"),
    "exit": (lambda: sys.exit(3), "SystemExit"),
    "keyboard": (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
    "stop iteration": (raising(StopAsyncIteration()), "StopAsyncIteration"),
    "cancelled": (raising(asyncio.CancelledError("mine")), "CancelledError"),
    "recursion": (recurse, "RecursionError"),
    "memory": (raising(MemoryError()), "MemoryError"),
    "silent": (raising(Silent()), "Silent"),
    "rude": (raising(Rude()), "Rude"),
    "group": (raising(ExceptionGroup("two", [ValueError("a"), OSError("b")])), "ValueError"),
    "base group": (raising(BaseExceptionGroup("two", [SystemExit(1)])), "SystemExit"),
    "huge": (raising(ValueError("x" * 10_000_000)), "ValueError"),
    "surrogate": (raising(ValueError("\ud800 alone")), "ValueError"),
    "zero": (raising(ValueError("\0")), "ValueError"),
    "bytes": (raising(ValueError(b"\xff\xfe")), "ValueError"),
    "chain": (raising(chain_of_errors(2000)), "ValueError"),
    "circle": (raising(circle()), "ValueError"),
    "ours": (raising(BrokerUnavailable("another broker")), "BrokerUnavailable"),
    "huge reject": (raising(Reject("x" * 10_000_000)), "Reject"),
    "surrogate reject": (raising(Reject("\ud800")), "Reject"),
    "odd reject": (raising(Reject(Silent())), "Reject"),
    "bent reject": (raising(Bent()), "Bent"),
    "endless": (raising(Endless()), "Endless"),
    "sleepless": (raising(Sleepless()), "Sleepless"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_any_error_is_recorded_and_the_next_job_runs(app, trouble):
    """Whatever a function raises ends in a dead letter of bounded size, and its neighbours do not notice."""
    throw, kind = TROUBLES[trouble]

    @app.task
    async def bad() -> None:
        throw()

    @app.task
    async def good() -> str:
        await anyio.sleep(1.0)
        return "fine"

    async with app.running(concurrency=2):
        before, job, after = await app.enqueue_many([good.call(), bad.call(), good.call()])
        with pytest.raises(JobFailed):
            await job.result(timeout=5)
        [letter] = await letters(app)

        assert await before.result(timeout=5) == await after.result(timeout=5) == "fine"
    [record] = letter.trail.errors
    assert record.type.endswith(kind)
    assert len(letter.reason) < 3000
    assert len(record.message) <= 2000
    assert len(record.traceback) <= 10_000


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_same_in_a_thread(app, trouble):
    """Plain functions fail in their thread as others do in the loop."""
    throw, kind = TROUBLES[trouble]

    @app.task
    def bad() -> None:
        throw()

    @app.task
    def good() -> str:
        return "fine"

    async with app.running(concurrency=2):
        job = await bad.enqueue()
        with pytest.raises(JobFailed):
            await job.result()
        [letter] = await letters(app)

        assert await (await good.enqueue()).result() == "fine"
    assert letter.trail.errors[0].type.endswith(kind)


async def test_a_dead_letter_has_the_whole_history(app):
    """Reason, exact bytes, every error with type, text, time, place and attempt (C13)."""

    @app.task(retry=Retry(attempts=3, base=60.0, factor=1.0, jitter="none"))
    async def fail(word: str) -> None:
        attempt = current().attempt
        raise [ConnectionError, TimeoutError, OSError][attempt - 1](f"{word} {attempt}")

    async with app.running():
        job = await fail.using(headers={"tenant": "7"}).enqueue("no")
        with pytest.raises(JobFailed):
            await job.result()
        [letter] = await letters(app)

    errors = letter.trail.errors
    assert (letter.reason, letter.job_id, letter.task, letter.queue) == ("exhausted", job.id, fail.name, "default")
    assert letter.args == {"word": "no"}
    assert letter.envelope.headers == {"tenant": "7"}
    assert [error.type for error in errors] == ["ConnectionError", "TimeoutError", "OSError"]
    assert [error.message for error in errors] == ["no 1", "no 2", "no 3"]
    assert [error.attempt for error in errors] == [1, 2, 3]
    assert [error.when - errors[0].when for error in errors] == pytest.approx([0.0, 60.0, 120.0])
    assert errors[0].when == pytest.approx(EPOCH, abs=1.0)
    assert [bool(error.traceback) for error in errors] == [False, False, True]
    assert "test_failures.py" in errors[2].where
    assert errors[2].where.endswith("in fail")


async def test_a_long_history_is_cut_in_the_middle(app):
    """A trail keeps the first 5 and the last 20 errors, and counts them all (C13)."""

    @app.task(retry=Retry(attempts=100, base=1.0, factor=1.0))
    async def fail() -> None:
        raise ValueError(f"{current().attempt}")

    async with app.running():
        with pytest.raises(JobFailed):
            await (await fail.enqueue()).result()
        [letter] = await letters(app)

    assert letter.trail.attempts == 100
    assert [int(error.message) for error in letter.trail.errors] == [*range(1, 6), *range(81, 101)]


async def test_a_result_that_does_not_fit_is_never_repeated(app):
    """The work is done: a dead letter "result", one start, whatever the policy allows (F69)."""
    starts = []

    @app.task(retry=5)
    async def lie() -> int:
        starts.append(current().job_id)
        return "not a number"

    async with app.running():
        job = await lie.enqueue()
        with pytest.raises(JobFailed, match="dead: result"):
            await job.result(timeout=5)
        [letter] = await letters(app)

    assert starts == [job.id]
    assert letter.reason == "result"
    assert "UnencodableResult" in letter.trail.errors[0].type


async def test_policy_chooses_by_error(app):
    """What `on` does not name is not tried again, and the reason says so."""
    starts = []

    @app.task(retry=Retry(attempts=5, on=(ConnectionError,)))
    async def fail() -> None:
        starts.append(1)
        raise KeyError("x")

    async with app.running():
        with pytest.raises(JobFailed, match="not retryable"):
            await (await fail.enqueue()).result(timeout=5)
    assert starts == [1]


async def test_a_task_that_cancels_itself(app, anyio_backend_name):
    """Cancelling the own asyncio task is a failure of that job, and its slot goes on."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own way")

    @app.task
    async def suicide() -> None:
        asyncio.current_task().cancel()
        await anyio.sleep(1.0)

    @app.task
    async def good() -> str:
        await anyio.sleep(1.0)
        return "fine"

    async with app.running(concurrency=1):
        for _ in range(3):
            with pytest.raises(JobFailed, match="CancelledError"):
                await (await suicide.enqueue()).result(timeout=5)

            assert await (await good.enqueue()).result(timeout=5) == "fine"


async def test_listeners_harm_no_job(app, caplog):
    """What a listener raises is logged, and the job goes on (F67)."""

    @app.on_event
    def listen(event) -> None:
        raise RuntimeError(event.name)

    @app.task
    async def good() -> str:
        return "fine"

    async with app.running():
        assert await (await good.enqueue()).result(timeout=5) == "fine"
    assert "a listener failed at job.succeeded" in caplog.text


async def test_logging_harms_no_job(app):
    """A log filter or handler that raises does not end the worker (F67)."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("the disk is full")

    @app.task
    async def bad() -> None:
        raise ValueError("no")

    @app.task
    async def good() -> str:
        return "fine"

    logger, handler = logging.getLogger("taskcore"), Broken()
    logger.addHandler(handler)
    try:
        async with app.running():
            with pytest.raises(JobFailed):
                await (await bad.enqueue()).result(timeout=5)
            assert await (await good.enqueue()).result(timeout=5) == "fine"
    finally:
        logger.removeHandler(handler)


async def test_errors_of_ours_inside_a_task_are_the_tasks_errors(app):
    """A task that fails to enqueue, or asks for a job wrongly, has failed; the worker has not."""

    @app.task
    async def inner(number: int) -> None: ...

    @app.task
    async def outer() -> None:
        await inner.enqueue("seven")

    async with app.running():
        with pytest.raises(JobFailed, match="InvalidArguments") as caught:
            await (await outer.enqueue()).result(timeout=5)
    assert isinstance(caught.value, TaskcoreError)
