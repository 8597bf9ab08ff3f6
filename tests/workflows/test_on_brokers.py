"""On each broker: workers die at failpoints of workflows and by SIGKILL, and every workflow comes to its result.

``TASKCORE_WORKFLOW_SWEEP=1 pytest tests/workflows/test_on_brokers.py`` lets one die at each failpoint.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from taskcore import App, Dead, Succeeded
from taskcore.faults import NatsServer, RabbitServer, RedisServer
from taskcore.testing.crash_points import CRASHED
from taskcore.workflows import Run, Workflow
from tests.support.real import serving
from tests.workflows.processes import Workers
from tests.workflows.program import make_app

BROKERS = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}
EVERY = bool(os.environ.get("TASKCORE_WORKFLOW_SWEEP"))  #: die at each point, not at some
POINTS = ("workflow.ended", "workflow.continued", "workflow.expanding")
if EVERY:
    POINTS += ("workflow.counted", "workflow.closed", "workflow.expanded")
KILLS = 10 if EVERY else 2
CHAINS, PLACES = 20, 5
SLOW = 90.0  #: seconds that everything may take on a busy machine

pytestmark = [pytest.mark.timeout(600 if EVERY else 180)]


@contextmanager
def workers(broker: str, folder: Path) -> Iterator[Workers]:
    """Run a broker, and a Redis as the store of one that has none."""
    with ExitStack() as opened:
        server = opened.enter_context(serving(BROKERS[broker]))
        store = opened.enter_context(serving(RedisServer)).url if broker == "rabbitmq" else ""
        found = Workers("tests.workflows.program", server.url, store, folder / "ledger")
        found.ledger.touch()
        try:
            yield found
        finally:
            for process in [*found.alive]:
                found.kill(process)


def nested(app: App, name: str) -> tuple[Workflow, Any]:
    """Build a map over a result, a map over that map, an alternative, and a join of both."""
    add: Any = app.tasks["add"]
    workflow = app.workflow("nested", id=name, deadline="10m")
    found = workflow.step(app.tasks["numbers"], 300)
    twice = workflow.map(add, workflow.map(add, found.out).out)
    flag = workflow.step(app.tasks["is_even"], 3)
    other = workflow.step(app.tasks["fail"], 1).when(flag.out).otherwise(add, 5)
    return workflow, workflow.step(add, workflow.step(app.tasks["total"], twice.out).out, other.out)


NESTED = sum(range(300)) + 2 * 300 + 6


@pytest.mark.parametrize("broker", BROKERS)
def test_workers_that_die(broker: str, tmp_path: Path) -> None:
    """After a death at each failpoint and by SIGKILL each result is right, and each recorded effect is one."""
    dice = random.Random(7)

    async def crash(found: Workers, app: App) -> None:
        """Let a worker die at each failpoint, with a workflow each; then end all of them with a worker that lives."""
        runs: list[Run[int]] = []
        for point in POINTS:
            visit = "1" if point in ("workflow.closed", "workflow.expanding") else "2"
            doomed = await anyio.to_thread.run_sync(found.start, point, visit)
            workflow, last = nested(app, point)
            runs.append(await workflow.submit(last))
            assert await anyio.to_thread.run_sync(found.forget, doomed) == CRASHED, point
        helper = await anyio.to_thread.run_sync(found.start)
        for run in runs:
            assert await run.outcome(timeout=SLOW) == Succeeded(NESTED), run.id
        await anyio.to_thread.run_sync(found.kill, helper)

    async def chains(found: Workers, app: App) -> None:
        """Kill workers at random while chains run."""
        charge: Any = app.tasks["charge"]
        alive = [await anyio.to_thread.run_sync(found.start) for _ in range(2)]
        runs: list[Run[int]] = []
        for chain in range(CHAINS):
            calls = charge.call(0, chain)
            for _ in range(PLACES - 1):
                calls = calls.then(charge, chain=chain)
            runs.append(await calls.submit(deadline="10m"))
        for _ in range(KILLS):
            await anyio.sleep(dice.uniform(0.1, 0.4))
            await anyio.to_thread.run_sync(found.kill, alive.pop(0))
            alive.append(await anyio.to_thread.run_sync(found.start))
        for run in runs:
            assert await run.outcome(timeout=SLOW) == Succeeded(PLACES)
        failing = await app.tasks["fail"].call(1).then(app.tasks["add"]).submit(deadline="10m")
        outcome = await failing.outcome(timeout=SLOW)
        assert isinstance(outcome, Dead)
        assert outcome.reason.startswith("step fail: ")

    async def story(found: Workers) -> None:
        async with make_app(*found.where) as app:
            await crash(found, app)
            await chains(found, app)

    with workers(broker, tmp_path) as found:
        anyio.run(story, found)
        collected = Counter(job for [job] in found.lines("total"))
        assert len(collected) == len(POINTS)
        assert max(collected.values()) <= 1 + len(POINTS)
        assert not found.lines("late")
        effects = Counter((chain, place) for chain, place, _ in found.lines("effect"))
        assert set(effects) == {(str(chain), str(place)) for chain in range(CHAINS) for place in range(PLACES)}
        assert sum(effects.values()) <= CHAINS * PLACES + KILLS * 20
