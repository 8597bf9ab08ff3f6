"""The sweep on a real server: every operation dies at every point, ours between two writes among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskcore.conformance.crash_sweep.child import dying
from taskcore.conformance.crash_sweep.environment import StartLog
from taskcore.conformance.crash_sweep.sweep import Case, run
from taskcore.conformance.harness import Harness
from taskcore.faults import NatsServer

LEASE, MARGIN = 0.3, 0.3

pytestmark = [pytest.mark.timeout(60)]

#: Where a worker or a client dies, each in the state in which it matters most.
CASES = [
    Case("enqueue", "enqueue.claimed", 1, "unknown"),
    Case("succeed", "run.returned", 1, "fresh"),
    Case("succeed", "settle.ended", 1, "redelivered"),
    Case("succeed", "settle.settled", 1, "retried"),
    Case("fail", "settle.ended", 1, "fresh"),
    Case("fail", "nats.retry.copied", 1, "fresh"),
    Case("fail", "nats.retry.copied", 1, "redelivered"),
    Case("reject", "settle.ended", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "retried_and_redelivered"),
    Case("give_up", "nats.bury.written", 1, "keyed"),
    Case("cancel", "cancel.removed", 1, "delayed"),
    Case("once", "once.forgotten", 1, "fresh"),
]
FOR_REAL = [
    Case("fail", "nats.retry.copied", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "fresh"),
    Case("succeed", "run.returned", 1, "fresh"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_crash(case: Case, nats: NatsServer) -> None:
    """Whoever dies at this point, the job ends once, completely, and leaves nothing behind."""
    run(case, lambda: Harness.at(nats.url, lease=LEASE, margin=MARGIN), real_time=True)


@pytest.mark.parametrize("case", FOR_REAL, ids=str)
def test_death(case: Case, nats: NatsServer, tmp_path: Path) -> None:
    """The same, and the process really ends there."""
    path = tmp_path / "starts"
    run(
        case,
        lambda: Harness.at(nats.url, lease=1.2, margin=MARGIN),
        real_time=True,
        dying=dying(nats.url, path),
        starts=StartLog(path),
    )
