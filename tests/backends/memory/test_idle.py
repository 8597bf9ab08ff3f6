"""An idle worker on many queues of memory costs next to nothing, and starts a job on any of them at once."""

from __future__ import annotations

import pytest

from tests.support.idling import idle, judge

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


async def test_an_idle_worker_costs_next_to_nothing():
    """A worker on a thousand queues sleeps until there is a job."""
    await judge(idle.on_memory(""), 1_000)
