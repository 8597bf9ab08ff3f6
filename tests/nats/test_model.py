"""Random stories of clients, workers, strangers, crashes and cuts, on a real server, in real time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import REAL_TIME, machine
from taskcore.faults import NatsServer

BUDGET = settings(REAL_TIME, max_examples=18, stateful_step_count=10, derandomize=True, database=None)


@pytest.mark.timeout(240)
def test_model(nats: NatsServer) -> None:
    """Whatever happens in whatever order, every promise is kept."""
    case: Any = machine(lambda: Harness.at(nats.url, lease=0.25, margin=0.25), real_time=True, budget=BUDGET).TestCase
    case("runTest").runTest()
