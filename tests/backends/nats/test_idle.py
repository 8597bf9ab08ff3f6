"""An idle worker on many queues of NATS costs next to nothing, and starts a job on any of them at once."""

from __future__ import annotations

import pytest

from taskcore.faults import NatsServer
from tests.support.idling import idle, judge
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


@pytest.mark.parametrize("version", ["2.9", ""], ids=["oldest", "newest"])
async def test_an_idle_worker_costs_next_to_nothing(version: str):
    """A worker on many queues sends and gets at most fifty messages a second, however many queues there are."""
    require(NatsServer, version)
    await judge(idle.on_nats(version), 300)
