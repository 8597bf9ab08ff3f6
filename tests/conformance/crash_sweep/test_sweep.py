"""The sweep over the in-memory broker: whatever dies wherever, nothing is lost, doubled or forgotten."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from taskcore.conformance.crash_sweep.child import CaseOrders, run_child
from taskcore.conformance.crash_sweep.sweep import Case, cases, run
from taskcore.conformance.harness import Harness
from taskcore.conformance.step_worker import StepWorker
from taskcore.testing.crash_points import CRASHED
from taskcore.toolkit.failpoints import FAILPOINTS

LEASE = 32.0
CASES = list(cases(lambda: Harness.in_memory(lease=LEASE)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_crash(case):
    """Whichever process dies at this point, the job ends once, completely, and leaves nothing behind."""
    run(case, lambda: Harness.in_memory(lease=LEASE))


def test_every_point_is_swept():
    """A crash point that no operation passes is not tested by anything."""
    assert set(FAILPOINTS) == {case.point for case in CASES if case.point}


def test_an_unknown_point_is_an_error():
    """A case that never reaches its point proves nothing, and says so."""
    with pytest.raises(AssertionError, match="does not pass"):
        run(Case("succeed", "no.such.point", 1, "fresh"), lambda: Harness.in_memory(lease=LEASE))


def test_a_worker_that_waits_for_a_processor(monkeypatch):
    """In real time a lease that ended while its holder had no processor is one more crash, and no broken promise."""
    settle, slow = StepWorker.settle, iter([0.0, 0.4])  # the first failure in time, then too late, then in time again

    async def settle_late(self, conclusion):
        await anyio.sleep(next(slow, 0.0))
        return await settle(self, conclusion)

    monkeypatch.setattr(StepWorker, "settle", settle_late)
    run(
        Case("unencodable", "run.returned", 1, "retried"),
        lambda: Harness.in_memory(lease=0.2, margin=0.2),
        real_time=True,
    )
    assert next(slow, None) is None


def test_a_process_can_die_at_a_point(tmp_path):
    """A process that really ends at the point, without any cleaning up, leaves a job that ends once."""
    orders = CaseOrders(
        url="memory://",
        store=None,
        case=Case("enqueue", "enqueue.claimed", 1, "unknown"),
        queue="q",
        mark="m",
        lease=1.0,
        margin=0.0,
        starts=str(tmp_path / "starts"),
        key="m-key",
    )
    assert run_child(orders) == CRASHED
    assert run_child(msgspec.structs.replace(orders, case=orders.case._replace(point="no.such.point"))) == 0
