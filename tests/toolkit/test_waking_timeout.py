"""A time limit in a loop that may have stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskcore.toolkit.timeouts import LATE_TIMER, waking_timeout


def test_it_ends_in_time() -> None:
    """In a loop that turns, a block ends when its time is over, and no later."""

    async def block() -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with waking_timeout(0.2):
                await asyncio.sleep(10)
        return time.monotonic() - began

    fastest = min(asyncio.run(block()) for _ in range(3))  # a busy machine may be late once
    assert 0.19 < fastest < 0.2 + LATE_TIMER / 2


@pytest.mark.parametrize("end", [0.05, 0.3 + LATE_TIMER], ids=["just over", "long over"])
def test_a_loop_that_stood_still_reads_first(end: float) -> None:
    """What came while the loop stood still counts, although the time is over by then."""

    async def block(*, comes: bool) -> None:
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        async with waking_timeout(0.5):
            if comes:
                loop.call_later(0.5 + end, come.set)
            time.sleep(0.5 + end)  # noqa: ASYNC251 - the loop has to stand still
            await come.wait()

    asyncio.run(block(comes=True))
    with pytest.raises(TimeoutError):
        asyncio.run(block(comes=False))
