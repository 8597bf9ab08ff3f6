"""Three nodes on one machine: one is killed while jobs are sent, leaders move, and no confirmed job is lost (F31)."""

from __future__ import annotations

import anyio
import pytest

from taskcore.backend import Outgoing, Stored
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.errors import BrokerUnavailable
from taskcore.faults import RabbitCluster, RabbitServer
from taskcore.lifecycle import ACK
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240), pytest.mark.slow]


async def test_a_killed_node_loses_nothing():
    """Whatever was confirmed before, during and after the death of the node that led the queue comes out."""
    require(RabbitServer)
    async with RabbitCluster(config={"heartbeat": 5}) as cluster:
        stored, seen = set(), set()
        async with RabbitBackend(f"{cluster.url}?timeout=5") as backend:
            number = 0
            with anyio.fail_after(120):
                while len(stored) < 600:
                    batch = [Outgoing("crowd", f"id{number + n}", b"job %d" % (number + n)) for n in range(20)]
                    number += 20
                    if number == 200:
                        cluster.nodes[0].kill()  # where we are connected, and where the queue was made
                    try:
                        answers = await backend.publish(batch)
                    except BrokerUnavailable:
                        await anyio.sleep(0.2)
                        continue
                    stored |= {
                        job.envelope for job, answer in zip(batch, answers, strict=True) if isinstance(answer, Stored)
                    }
            async with backend.consume(["crowd"], lease=60.0) as source:
                with anyio.move_on_after(60):
                    while not stored <= seen:
                        try:
                            found = await source.receive(100)
                            await source.settle([(delivery, ACK) for delivery in found])
                        except BrokerUnavailable:
                            await anyio.sleep(0.2)
                            continue
                        seen |= {delivery.envelope for delivery in found}
        assert stored - seen == set(), f"{len(stored - seen)} of {len(stored)} confirmed jobs were lost"
