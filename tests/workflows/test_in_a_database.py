"""Queue and records in one database: a step is acknowledged only after what follows from its end."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from taskcore import App
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from taskcore.worker.hosting import WorkerChoice, make_worker

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("point", ["workflow.ended", "workflow.continued"])
def test_a_worker_dies_between_the_outcome_and_the_next_step(point: str, tmp_path: Path) -> None:
    """The next worker has the step again, and the chain comes to its result."""
    app = App(f"sqlite:///{tmp_path / 'jobs.db'}", lease=2.0)

    @app.task(name="add", crashes=10)
    async def add(a: int) -> int:
        return a + 1

    async def story() -> None:
        async with app:
            run = await add.call(1).then(add).then(add).submit()
            with crash_at(point), pytest.raises(BaseExceptionGroup) as caught:
                await make_worker(app.components, app.settings, app.tasks, WorkerChoice()).run()
            assert caught.group_contains(SimulatedCrash)
            async with app.running():
                assert await run.result(timeout=40) == 4

    anyio.run(story)
