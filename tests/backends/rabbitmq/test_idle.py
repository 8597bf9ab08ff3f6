"""An idle worker on many queues of RabbitMQ costs next to nothing, and starts a job on any of them at once."""

from __future__ import annotations

import pytest

from taskcore.faults import RabbitServer
from tests.support.idling import idle, judge
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


@pytest.mark.parametrize("version", ["", "4"], ids=["system", "newer"])
async def test_an_idle_worker_costs_next_to_nothing(version: str):
    """A worker on many queues sends at most a twentieth of a request a second for each of them."""
    require(RabbitServer, version)
    await judge(idle.on_rabbitmq(version), 100)
