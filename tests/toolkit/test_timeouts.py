"""Time limits for many with one timer."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from taskcore.toolkit.timeouts import SharedTimeout, SharedTimer
from tests.support.virtual import options

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]  # a busy machine does not count
ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", options("asyncio"))], ids=["asyncio"])


async def test_a_block_that_ends_in_time_is_untouched():
    """Within its time nothing happens to it, nor to what its task does later."""
    limit = SharedTimeout(0.5)
    done = []
    for number in range(5):
        with limit.scope():
            await anyio.sleep(0.001)
            done.append(number)
    await anyio.sleep(0.6)

    assert done == list(range(5))


async def test_a_block_that_takes_longer_is_left():
    """When the time is over the context is left, and what follows it runs."""
    limit, began = SharedTimeout(0.03), anyio.current_time()
    with limit.scope():
        await anyio.sleep(5)
        raise AssertionError
    seconds = anyio.current_time() - began

    assert 0.029 <= seconds < 1
    await anyio.sleep(0.001)  # and nothing is left of the cancellation


async def test_each_has_its_own_time():
    """Many at once: each ends when its own time is over, those in time are spared."""
    limit, ends = SharedTimeout(0.1), {}

    async def wait(number: int, seconds: float) -> None:
        began = anyio.current_time()
        with limit.scope():
            await anyio.sleep(seconds)
        ends[number] = anyio.current_time() - began

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(wait, number, 5.0 if number % 2 else 0.01)
            await anyio.sleep(0.002)

    assert all((0.09 < ends[number] < 1) == bool(number % 2) for number in range(20)), ends


async def test_limits_within_limits():
    """The outer one ends what is inside, although the inner one has time left."""
    outer, inner, passed = SharedTimeout(0.02), SharedTimeout(5.0), []
    with outer.scope():
        with inner.scope():
            await anyio.sleep(5)
        passed.append("inner")

    assert not passed


async def test_an_error_stays_an_error():
    """What the work raises in time is raised."""
    with pytest.raises(KeyError), SharedTimeout(1.0).scope():
        raise KeyError


async def test_a_scope_around_it_ends_it():
    """A cancellation from elsewhere passes through."""
    with anyio.move_on_after(0.01) as scope, SharedTimeout(5.0).scope():
        await anyio.sleep(5)

    assert scope.cancelled_caught


@ASYNCIO
async def test_asyncio_s_cancellation_is_not_mistaken_for_the_end_of_the_time():
    """A task that is cancelled in the moment in which its time ends is cancelled."""
    limit = SharedTimeout(0.02)

    async def work() -> str:
        with limit.scope():
            await asyncio.sleep(5)
        return "went on"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(next(iter(limit._timer._waiting)).ends, task.cancel)

    with pytest.raises(asyncio.CancelledError):
        await task


@ASYNCIO
async def test_a_task_that_ignores_its_cancellation_is_cancelled_again():
    """Work that swallows its cancellation is cancelled again."""
    failed = []
    with SharedTimeout(0.02).scope():
        for _ in range(2):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                failed.append(1)
        await asyncio.sleep(5)

    assert len(failed) == 2


def test_a_limit_outlives_its_loop():
    """A program may run one event loop after another; each has a timer that rings."""
    limit = SharedTimeout(0.02)

    async def work() -> str:
        with limit.scope():
            await asyncio.sleep(5)
        return "over"

    assert [asyncio.run(work()) for _ in range(2)] == ["over", "over"]


class Wait:
    """A deadline that counts how often it expired."""

    def __init__(self, again: float = float("inf")) -> None:
        self.ends = 0.0
        self.expired = 0
        self._again = again

    def expire(self) -> float:
        """Count how often it expired."""
        self.expired += 1
        return self._again


@ASYNCIO
async def test_one_timer_for_deadlines_of_different_length():
    """Each deadline expires at its own time, the shorter before the longer; a discarded one does not."""
    timer, short, long, discarded = SharedTimer(), Wait(), Wait(), Wait()
    timer.add(long, 0.08)
    timer.add(short, 0.02)
    timer.add(discarded, 0.03)
    timer.discard(discarded)
    await asyncio.sleep(0.05)
    assert (short.expired, long.expired, discarded.expired) == (1, 0, 0)
    await asyncio.sleep(0.06)
    assert (short.expired, long.expired, discarded.expired) == (1, 1, 0)


@ASYNCIO
async def test_a_deadline_may_ask_to_be_called_again():
    """The answer of ``expire`` is the time until the next call."""
    timer, wait = SharedTimer(), Wait(again=0.01)
    timer.add(wait, 0.01)
    await asyncio.sleep(0.1)
    assert wait.expired > 2
    timer.close()
    before = wait.expired
    await asyncio.sleep(0.03)
    assert wait.expired == before
