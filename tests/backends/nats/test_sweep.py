"""The sweep on a real server: every operation dies at every failpoint, ours between two writes among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskcore.conformance.crash_sweep.child import dying
from taskcore.conformance.crash_sweep.environment import StartLog
from taskcore.conformance.crash_sweep.sweep import Case, run
from taskcore.conformance.harness import Harness
from taskcore.faults import NatsServer
from tests.support.real import serving

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
    Case("soon", "nats.retry.copied", 1, "fresh"),
    Case("soon", "", 1, "retried"),
    Case("reject", "settle.ended", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "retried_and_redelivered"),
    Case("give_up", "nats.bury.written", 1, "keyed"),
    Case("cancel", "cancel.removed", 1, "delayed"),
    Case("once", "once.forgotten", 1, "fresh"),
]
BY_TIMERS = [case for case in CASES if case.operation in {"fail", "soon", "cancel"} or case.state == "retried"]
FOR_REAL = [
    Case("fail", "nats.retry.copied", 1, "fresh"),
    Case("reject", "nats.bury.written", 1, "fresh"),
    Case("succeed", "run.returned", 1, "fresh"),
]


@pytest.fixture(scope="module", params=["2.9", "2.10"])
def old(request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """Serve with delays that are kept by timers in workers."""
    with serving(NatsServer, request.param) as server:
        yield server


@pytest.mark.parametrize("case", CASES, ids=str)
def test_crash(case: Case, nats: NatsServer) -> None:
    """After a death at this failpoint the job ends once, completely, and leaves nothing behind."""
    run(case, lambda: Harness.at(nats.url, lease=LEASE, margin=MARGIN), real_time=True)


@pytest.mark.parametrize("case", BY_TIMERS, ids=str)
def test_crash_where_timers_keep_delays(case: Case, old: NatsServer) -> None:
    """Whichever process dies at this point, the job ends once on a server that has no schedules."""
    run(case, lambda: Harness.at(old.url, lease=LEASE, margin=MARGIN), real_time=True)


@pytest.mark.parametrize("case", FOR_REAL, ids=str)
def test_death(case: Case, nats: NatsServer, tmp_path: Path) -> None:
    """A process that really ends at this point leaves a job that ends once."""
    die(case, nats, tmp_path)


@pytest.mark.parametrize("case", [*FOR_REAL, Case("succeed", "nats.timer.moved", 1, "delayed")], ids=str)
def test_death_where_timers_keep_delays(case: Case, old: NatsServer, tmp_path: Path) -> None:
    """A process that really ends at this point leaves a job that ends once, on a server that has no schedules, too."""
    die(case, old, tmp_path)


def die(case: Case, server: NatsServer, folder: Path) -> None:
    """Play a case in which the process really ends."""
    path = folder / "starts"
    run(
        case,
        lambda: Harness.at(server.url, lease=1.2, margin=MARGIN),
        real_time=True,
        dying=dying(server.url, path),
        starts=StartLog(path),
    )
