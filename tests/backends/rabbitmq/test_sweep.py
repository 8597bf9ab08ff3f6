"""Whatever dies wherever, on a real node: nothing is lost, doubled or forgotten."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from taskcore.conformance.crash_sweep.sweep import Case, cases, run
from taskcore.conformance.harness import Harness
from tests.support.records import store_url
from tests.support.redis_sweep import play

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
#: Each of the core's points once, in a state that is quickly reached; and every third of them, for real processes.
QUICK_STATES = {"fresh", "keyed", "delayed", "retried", "unknown", "claimed", "published", "buried", "poisonous"}
POINTS = {
    (case.operation, case.point): case
    for case in cases(lambda: Harness.in_memory(lease=32.0))
    if case.point and case.point != "cancel.removed" and case.state in QUICK_STATES  # nothing can be removed here
}
REAL = list(POINTS.values())[::3]
LEASE, MARGIN = 0.6, 0.4
CONCURRENT_CASES = 8  #: processes with a case each

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("case", COPIES + CORE, ids=str)
def test_crash(case, make_harness):
    """Wherever a process dies at this point, the job ends once, completely."""
    run(case, lambda: make_harness(lease=LEASE, margin=MARGIN), real_time=True)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_that_die(node, tmp_path):
    """A process that really ends behind a copy or at a point of the core leaves a job that ends once."""
    if store_url(tmp_path) is None:
        pytest.skip("no store is installed here that two processes can share")
    sample = [COPIES[0], COPIES[2], COPIES[-1], *REAL]
    with ProcessPoolExecutor(CONCURRENT_CASES, mp_context=multiprocessing.get_context("spawn")) as processes:
        playing = [
            processes.submit(
                play, case, url=f"{node.url}?min_queue_age=0.1", folder=tmp_path, lease=LEASE, margin=MARGIN,
                store=f"sqlite:///{tmp_path / f'records-{number}.db'}",
            )
            for number, case in enumerate(sample)
        ]  # fmt: skip
        problems = [problem for one in playing if (problem := one.result())]
    assert problems == []
