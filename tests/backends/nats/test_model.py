"""Random histories of clients, workers, strangers, crashes and cuts, on a real server, in real time."""

from __future__ import annotations

from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import REAL_TIME, machine
from taskcore.faults import ChaosProxy, NatsServer
from tests.support.real import serving

BUDGET = settings(REAL_TIME, max_examples=18, stateful_step_count=15, derandomize=True, database=None)


@pytest.mark.timeout(240)
def test_model(nats: NatsServer) -> None:
    """Whatever happens in whatever order, every promise is kept."""
    play(nats.url)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["2.9", "2.10"])
def test_model_where_timers_keep_delays(version: str) -> None:
    """The same on a server that has no schedules, and behind a network that takes some milliseconds."""
    with serving(NatsServer, version) as server, start_blocking_portal() as portal:
        slow = ChaosProxy("127.0.0.1", server.port)
        with portal.wrap_async_context_manager(slow):
            slow.delay(0.002, jitter=0.002)
            play(f"nats://127.0.0.1:{slow.port}")


def play(url: str) -> None:
    """Run the budget's histories on this server."""
    case: Any = machine(lambda: Harness.at(url, lease=0.25, margin=0.25), real_time=True, budget=BUDGET).TestCase
    case("runTest").runTest()
