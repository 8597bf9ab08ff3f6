"""Jobs in the loop, in threads and in processes tell alike, and so do blocking handles read."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App, Retry, StoreRequired, current
from taskcore.progress import JobLogHandler
from tests.progress.programs import KINDS, make
from tests.support.faulty import eventually, letters

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_and_goes_on(kind: str) -> None:
    """Values rise, a retried attempt goes on where the first one failed, and the log has the lines of both."""

    async def main() -> None:
        app = make("memory://")
        async with app.running():
            job = await KINDS[kind].enqueue(30, 0.05, fails_at=9)
            seen = [one async for one in job.progress()]
            assert await job.result(10) == 30
            log = await job.log()
        values = [one.value for one in seen]
        assert values == sorted(values)
        assert (seen[-1].value, seen[-1].total, seen[-1].message, seen[-1].attempt) == (30, 30, "rows", 2)
        assert len(seen) >= 3
        assert {one.attempt for one in seen} == {1, 2}
        assert [(line.attempt, line.text) for line in log.lines] == [
            *((1, f"row {row}") for row in range(10)),
            *((2, f"row {row}") for row in range(9, 30)),
        ]

    anyio.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_tells_without_a_store(kind: str) -> None:
    """The first use raises, in a process too, and the dead letter says what to do."""

    async def main() -> None:
        app = make("memory://", store="none")
        async with app.running():
            await KINDS[kind].using(retry=1).enqueue(3, 0.0)
            await eventually(lambda: letters(app), within=20)
            [letter] = await letters(app)
        [error] = letter.trail.errors
        assert error.type == StoreRequired.__name__
        assert "this app has none" in error.message

    anyio.run(main)


def test_blocking_handles_read_and_follow() -> None:
    """``app.sync`` and ``task.sync`` read progress and log once, and follow them until the job's end."""
    app = make("memory://")
    with app.sync.running():
        job = KINDS["thread"].sync.enqueue(12, 0.1)
        values = [seen.value for seen in job.progress()]
        lines = [line.text for line in job.log()]
        assert values[-1] == 12
        assert values == sorted(set(values))
        assert lines == [f"row {row}" for row in range(12)]
        assert job.result(5) == 12
        again = app.sync.job(job.id)
        last = again.progress().read()
        assert last is not None
        assert last.value == 12
        assert len(again.log().read().lines) == 12
        for _ in job.progress():
            break


def test_a_plain_function_in_the_loop_cannot_read() -> None:
    """A function that could only block the loop gets an error that says how to go on from a saved position."""
    app, problems = App("memory://", retry=Retry(attempts=1)), []

    @app.task(runs_in="loop")
    def work() -> None:
        try:
            for _ in current().progress(range(3), resume=True):
                pass
        except Exception as error:
            problems.append(str(error))
            raise

    async def main() -> None:
        async with app.running():
            await (await work.enqueue()).outcome(10)

    anyio.run(main)
    assert 'runs_in="thread"' in problems[0]


def test_the_logging_module_writes_into_the_job() -> None:
    """Records that are made in a job are kept with it; others, and those of taskcore itself, are not."""
    app, ours = App("memory://"), logging.getLogger("shop.progress")
    handler = JobLogHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.getLogger("taskcore").addHandler(handler)

    @app.task
    async def work() -> None:
        ours.info("inside %d", 1)
        logging.getLogger("taskcore.worker").warning("ours")

    @app.task
    def in_a_thread() -> None:
        ours.warning("thread")

    async def main() -> None:
        async with app.running():
            ours.info("outside")
            first, second = await work.enqueue(), await in_a_thread.enqueue()
            await first.result(5)
            await second.result(5)
            assert [line.text for line in (await first.log()).lines] == ["INFO inside 1"]
            assert [line.text for line in (await second.log()).lines] == ["WARNING thread"]

    try:
        anyio.run(main)
    finally:
        ours.removeHandler(handler)
        logging.getLogger("taskcore").removeHandler(handler)
