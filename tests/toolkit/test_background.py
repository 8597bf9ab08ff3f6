"""Work beside a block of code: entered in one task, left in another, and never left behind."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from taskcore.toolkit.background import run_in_background

pytestmark = pytest.mark.timeout(10)


class Working:
    """Works until it is stopped, or fails."""

    def __init__(self, fails_after: float | None = None) -> None:
        self.ended = False
        self._stop = anyio.Event()
        self._fails_after = fails_after

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Work."""
        try:
            task_status.started()
            if self._fails_after is not None:
                await anyio.sleep(self._fails_after)
                raise ZeroDivisionError
            await self._stop.wait()
        finally:
            self.ended = True

    def stop(self) -> None:
        """Stop."""
        self._stop.set()


@pytest.mark.anyio
async def test_work_ends_with_the_body() -> None:
    """The work runs as long as the body, and an error of the body leaves without a group around it."""
    work = Working()
    with pytest.raises(LookupError):
        async with run_in_background(work.run, work.stop):
            raise LookupError(work.ended)
    assert work.ended


@pytest.mark.anyio
async def test_failing_work_cancels_the_body() -> None:
    """The error of the work ends the body and leaves by itself; the task is not cancelled any more."""
    work = Working(fails_after=0.01)
    with pytest.raises(ZeroDivisionError):
        async with run_in_background(work.run, work.stop):
            await anyio.sleep(5)
    await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_a_cancelled_body_cancels_the_work() -> None:
    """A scope around the body that is cancelled ends body and work, and nothing waits for a stop."""
    work = Working()
    work.stop = lambda: None  # type: ignore[method-assign]
    with anyio.move_on_after(0.05) as scope:
        async with run_in_background(work.run, work.stop):
            await anyio.sleep(5)
    assert scope.cancelled_caught
    assert work.ended


@pytest.mark.anyio
async def test_work_that_fails_at_once_is_raised() -> None:
    """An error before the work is ready is raised at the entry."""

    async def fails(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with run_in_background(fails, lambda: None):
            raise AssertionError


def test_failing_work_of_a_fixture_is_raised_at_its_end() -> None:
    """Where the entering task has ended, the error of the work is raised when the context is left elsewhere."""
    loop = asyncio.new_event_loop()

    async def fixture():
        work = Working(fails_after=0.01)
        async with run_in_background(work.run, work.stop):
            yield

    generator = fixture()
    loop.run_until_complete(anext(generator))
    loop.run_until_complete(asyncio.sleep(0.05))
    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(anext(generator))
    loop.close()
