"""What a measurement says about CPU: beside the rates it belongs to, and without that of the measuring itself."""

from __future__ import annotations

import time

import msgspec
import pytest

from taskcore.bench import QUICK, SCENARIOS, Figure, measure_one, private_environment
from taskcore.bench.proc import UsageWatch
from taskcore.bench.program import Spec
from taskcore.bench.workers import WorkerProcesses

TINY = msgspec.structs.replace(QUICK, seconds=0.01)


@pytest.fixture
def anyio_backend() -> str:
    """Measure on the loop that programs use."""
    return "asyncio"


def test_a_watch_counts_cpu_a_job_and_waiting_is_none():
    """A watch counts the CPU of this process and of the broker from the moment it was made."""
    broker = iter([5.0, 5.5])
    watch = UsageWatch(lambda: next(broker))
    before = time.process_time()
    while time.process_time() - before < 0.02:
        pass
    time.sleep(0.1)
    seconds, facts = watch.stop(1_000)
    assert seconds >= 0.12
    assert 20.0 <= facts["cpu"] < seconds * 1_000
    assert facts["broker_cpu"] == pytest.approx(500.0)


def test_a_watch_says_nothing_about_a_broker_that_cannot_be_inspected():
    """A broker without figures gets neither zero nor a guess."""
    assert set(UsageWatch(lambda: None).stop(1)[1]) == {"cpu"}


async def measured(scenario: str) -> dict[str, Figure]:
    """Measure a scenario in memory; return its figures by name."""
    async with private_environment("memory", TINY) as environment:
        found = await measure_one(environment, scenario, SCENARIOS[scenario])
    return {one.name: one for one in found if isinstance(one, Figure)}


@pytest.mark.anyio
async def test_each_rate_has_its_cpu_time():
    """Each rate carries its CPU, which shows whether a core was the limit; packing is a figure of its own."""
    sent, drained = await measured("enqueue"), await measured("drain")
    for rate in (sent["one awaited"], sent["100 at once"], sent["bulk"], drained["with results"]):
        assert rate.facts["cpu"] > 0
        assert "broker_cpu" not in rate.facts
    assert sent["packing alone"].unit == "µs/job"
    assert sent["packing alone"].better == "less"
    assert sent["packing alone"].median > 0


@pytest.mark.anyio
@pytest.mark.parametrize("counts", [True, False])
async def test_an_idle_worker_is_not_woken_by_the_measurement(tmp_path, counts):
    """A hundred looks a second at a count that stands still cost more than the worker itself."""
    spec = Spec(url="memory://", store="none", queue="idle", report="", counts=counts)
    async with WorkerProcesses(spec, 1, tmp_path) as workers:
        assert (tmp_path / "worker-0.count").exists() is counts
        assert workers.counted() == 0
        await workers.dismiss()
