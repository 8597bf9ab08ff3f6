"""What an idle worker may cost, for the tests of each broker; ``benchmarks/idle.py`` measures it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

idle = pytest.importorskip("benchmarks.idle", reason="a source distribution has no benchmarks")

REQUESTS = 50.0  #: a second, of a worker on a thousand queues; with answers, where they cost the same
CPU = 1.0  #: percent of a core
START = 100.0  #: milliseconds, the median
OPEN = 40.0  #: seconds on a machine that has other things to do, until all queues are opened and watched


async def judge(opening: AbstractAsyncContextManager[Any], queues: int, seconds: float = 10.0) -> None:
    """Measure a worker on new queues, and compare."""
    async with opening as place:
        cost = await idle.cost_of(place, queues, seconds)
    assert cost.requests <= REQUESTS * queues / 1_000, cost
    assert cost.requests + cost.answers + cost.inside <= REQUESTS, cost
    assert cost.cpu <= CPU, cost
    assert cost.start < START, cost
    assert cost.open + cost.settled < OPEN, cost
