"""A map of 10,000 children on three workers, of which one is killed in the middle.

``TASKCORE_WORKFLOW_CHILDREN=100000 pytest tests/workflows/test_wide_maps.py`` takes as many, on each broker.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from taskcore import App, Succeeded
from tests.support.faulty import eventually
from tests.workflows.program import make_app
from tests.workflows.test_on_brokers import BROKERS, Workers, workers

WANTED = int(os.environ.get("TASKCORE_WORKFLOW_CHILDREN", "0"))
CHILDREN = WANTED or 10_000
SLOW = 60.0 + CHILDREN / 100  #: seconds that everything may take on a busy machine

pytestmark = pytest.mark.timeout(30 + int(2 * SLOW))


@pytest.mark.parametrize("broker", BROKERS if WANTED else ["redis"])
def test_a_worker_is_killed_in_the_middle(broker: str, tmp_path: Path) -> None:
    """The collector runs once, with each result at its place, and only what the killed worker had runs again."""

    async def story(found: Workers, app: App) -> None:
        alive = [await anyio.to_thread.run_sync(found.start) for _ in range(3)]
        tasks: Any = app.tasks
        workflow = app.workflow("wide", deadline="1h")
        run = await workflow.submit(workflow.map(tasks["add"], range(CHILDREN)).then(tasks["ordered"]))
        await eventually(lambda: len(found.lines("start")) > CHILDREN // 2, within=SLOW)
        await anyio.to_thread.run_sync(found.kill, alive[0])
        assert await run.outcome(timeout=SLOW) == Succeeded(True)
        progress = await run.progress()
        assert (progress.total, progress.succeeded) == (CHILDREN + 1, CHILDREN + 1)

    async def whole(found: Workers) -> None:
        async with make_app(*found.where) as app:
            await story(found, app)

    with workers(broker, tmp_path) as found:
        anyio.run(whole, found)
        assert len(found.lines("ordered")) == 1
        starts = Counter(job for [job] in found.lines("start"))
        assert len(starts) == CHILDREN
        assert sum(starts.values()) <= CHILDREN + 100
