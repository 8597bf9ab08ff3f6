"""Whatever dies wherever, on a real node: nothing is lost, doubled or forgotten."""

from __future__ import annotations

import pytest
from records import store_url

from taskcore.adapters import open_backend, open_store
from taskcore.testing.stage import Stage
from taskcore.testing.sweep.child import dying
from taskcore.testing.sweep.ground import Ledger
from taskcore.testing.sweep.plan import Case, run

#: Each verdict that leaves a copy: dead behind the copy.
COPIES = [
    Case("fail", "rabbitmq.retry.copied", 1, "fresh"),
    Case("fail", "rabbitmq.retry.copied", 1, "keyed"),
    Case("exhaust", "rabbitmq.bury.written", 1, "fresh"),
    Case("reject", "rabbitmq.bury.written", 1, "keyed"),
    Case("succeed", "rabbitmq.bury.written", 1, "poisonous"),
    Case("release", "rabbitmq.release.copied", 1, "redelivered"),
    Case("replay", "rabbitmq.replay.stored", 1, "buried"),
]
#: A sample of the core's own points, on this broker.
CORE = [
    Case("succeed", "settle.ended", 1, "redelivered"),
    Case("fail", "settle.settled", 1, "fresh"),
    Case("once", "once.forgotten", 1, "fresh"),
    Case("cancel", "cancel.marked", 1, "fresh"),
]
LEASE, MARGIN = 0.6, 0.4

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("case", COPIES + CORE, ids=str)
def test_crash(case, make_stage):
    """Whoever dies at this point, the job ends once, completely."""
    run(case, lambda: make_stage(lease=LEASE, margin=MARGIN), real_time=True)


@pytest.mark.parametrize("case", [COPIES[0], COPIES[2], COPIES[-1]], ids=str)
def test_a_process_dies(case, node, tmp_path):
    """The same with a process that really ends there."""
    store, url = store_url(tmp_path), f"{node.url}?settle=0.1"
    if store is None:
        pytest.skip("no store is installed here that two processes can share")

    def make():
        return Stage(lambda: open_backend(url), lambda: open_store(store), lease=LEASE, margin=MARGIN)

    ledger = tmp_path / "starts"
    run(case, make, real_time=True, dying=dying(url, ledger, store=store), ledger=Ledger(ledger))
