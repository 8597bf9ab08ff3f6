"""Retries that are due within a round trip, over a slow network, on every broker: none is lost, each job ends once.

On the loopback an answer is there before anything else happens. Here each chunk takes some milliseconds, so a retry
is due, is moved and comes to another worker while the one that sent it still waits for answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import anyio
import pytest

from taskcore.conformance import Check, CheckResult, all_checks, run_check
from taskcore.conformance.harness import Harness
from taskcore.faults import ChaosProxy, NatsServer, RabbitServer, RedisServer, Server
from tests.support.real import require

pytestmark = pytest.mark.timeout(60)

LATENCY = 0.005  #: seconds, more or less by as much
[CHECK] = [check for check in all_checks() if check.name == "a_short_retry_is_not_lost"]


class Broker(NamedTuple):
    """A server of one version, and how its queues are kept."""

    kind: type[Server]
    version: str = ""
    options: str = ""

    def __str__(self) -> str:
        return f"{self.kind.program} {self.version or 'first found'} {self.options}".strip()


TIMERS = "?max_bytes=1GiB"  #: delays are kept by timers in workers, on every version
BROKERS = [
    Broker(RedisServer),
    Broker(RabbitServer, options="?min_queue_age=0.1"),
    Broker(RabbitServer, options="?min_queue_age=0.1&queue_type=classic"),
    *(Broker(NatsServer, version) for version in ("2.9", "2.10", "2.11", "2.12", "")),
    *(Broker(NatsServer, version, TIMERS) for version in ("2.9", "2.10", "2.11", "2.12", "")),
]


@pytest.fixture(params=[0.0, LATENCY], ids=["near", "far"])
def latency(request: pytest.FixtureRequest) -> float:
    """Choose the seconds that each chunk takes."""
    return float(request.param)


async def played(check: Check, broker: Broker, latency: float) -> CheckResult:
    """Play a check on a server of its own, each connection through a network of this latency."""
    async with broker.kind(version=broker.version) as server, ChaosProxy("127.0.0.1", server.port) as proxy:
        if latency:
            proxy.delay(latency, jitter=latency)
        url = server.url.replace(f":{server.port}", f":{proxy.port}") + broker.options
        return await run_check(check, lambda: Harness.at(url, lease=1.0, margin=1.0))


@pytest.mark.parametrize("broker", BROKERS, ids=str)
def test_no_short_retry_is_lost(broker: Broker, latency: float) -> None:
    """Two workers retry many jobs with waits of 0.1 to 20 ms, and every job comes again each time and ends once."""
    require(broker.kind, broker.version)
    finding = anyio.run(played, CHECK, broker, latency)
    assert (finding.standing in {"kept", "emulated"}, finding.why) == (True, "")


@pytest.mark.parametrize("make", [lambda: Harness.in_memory(lease=1.0, margin=1.0)], ids=["memory"])
def test_no_short_retry_is_lost_in_memory(make: Callable[[], Harness]) -> None:
    """No short retry is lost in memory, in real time."""
    finding = anyio.run(run_check, CHECK, make)
    assert (finding.standing, finding.why) == ("kept", "")
