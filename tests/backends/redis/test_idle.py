"""An idle worker on many queues of Redis costs next to nothing, and starts a job on any of them at once."""

from __future__ import annotations

import pytest

from taskcore.faults import RedisServer, ValkeyServer
from tests.support.idling import idle, judge
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


@pytest.mark.parametrize(("kind", "version"), [(RedisServer, ""), (RedisServer, "8"), (ValkeyServer, "")])
async def test_an_idle_worker_costs_next_to_nothing(kind: type[RedisServer], version: str):
    """A worker on a thousand queues sends at most fifty requests a second, with the commands of its scripts."""
    require(kind, version)
    place = idle.on_redis(version) if kind is RedisServer else idle.on_valkey(version)
    await judge(place, 1_000)
