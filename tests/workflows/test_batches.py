"""Batches: jobs that are added while the batch is open, what follows when they have ended, and senders that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Dead, JobCancelled, JobFailed, Retry, Succeeded, current
from taskcore.errors import InvalidSetting, ResultTimeout
from taskcore.results import JobOutcome
from taskcore.stores.memory import MemoryStore
from taskcore.testing.crash_points import SimulatedCrash, crash_at, passing
from taskcore.workflows import Batch, BatchClosed, BatchProgress, InvalidWorkflow, continue_with
from tests.support import virtual
from tests.workflows.dying import Stage, play, visits, work

pytestmark = pytest.mark.timeout(120)

OPEN_FOR = 600.0


class Importer:
    """An app that imports rows, and what it did."""

    def __init__(self) -> None:
        self.app = app = App(
            "memory://", store=MemoryStore(), clock=virtual.clock, retry=Retry(attempts=1), keep_result="1d"
        )
        self.did: Counter[str] = Counter()

        @app.task(name="row")
        async def row(n: int, fails: bool = False, seconds: float = 0.0) -> int:
            await anyio.sleep(seconds)
            self.did["row"] += 1
            if fails:
                raise ValueError(n)
            return n

        @app.task(name="summarise")
        async def summarise(label: str) -> str:
            self.did[f"complete {label}"] += 1
            return label

        @app.task(name="ship")
        async def ship(label: str) -> str:
            self.did[f"success {label}"] += 1
            return label

        self.row, self.summarise, self.ship = row, summarise, ship

    def batch(self, **options: Any) -> Batch:
        """Make a batch with both callbacks."""
        calls = {"on_complete": self.summarise.call("a"), "on_success": self.ship.call("b")}
        return self.app.batch("import", **{"open_for": OPEN_FOR, **calls, **options})

    def run(self, story: Callable[[], Awaitable[None]]) -> None:
        """Tell a story while a worker runs."""

        async def whole() -> None:
            async with self.app.running():
                await story()

        anyio.run(whole, backend_options=virtual.options("asyncio"))


@pytest.mark.parametrize(("many", "fail"), [(0, 0), (1, 0), (1, 1), (255, 0), (256, 3), (257, 0), (1300, 13)])
def test_callbacks_come_once_after_all_jobs(many: int, fail: int) -> None:
    """``on_complete`` follows every batch, ``on_success`` one whose jobs all ended well; an empty one, too."""
    importer = Importer()

    async def story() -> None:
        async with importer.batch() as batch:
            for n in range(many):
                await batch.add(importer.row.call(n, n < fail))
        counts = BatchProgress(added=many, succeeded=many - fail, failed=fail)
        assert await batch.wait(timeout=60) == counts
        assert await batch.progress() == counts
        assert counts.waiting == 0
        assert importer.did["complete a"] == 1
        assert importer.did["success b"] == (0 if fail else 1)
        state = await importer.app.workflows.show(batch.id)
        assert (state.status, state.steps[0].progress.failed) == ("succeeded", fail)

    importer.run(story)


def test_jobs_that_end_before_the_batch_is_closed() -> None:
    """Jobs run while others are added; nothing follows before the batch is closed, and its progress is known."""
    importer = Importer()

    async def story() -> None:
        async with importer.batch() as batch:
            await batch.add_many(importer.row.call(n) for n in range(5))
            await batch.flush()
            await anyio.sleep(60)
            assert importer.did == {"row": 5}
            assert await batch.progress() == BatchProgress(added=5, succeeded=5, failed=0, is_closed=False)
        await batch.wait(timeout=0.05)
        assert importer.did == {"row": 5, "complete a": 1, "success b": 1}

    importer.run(story)


def test_a_sender_that_dies() -> None:
    """A batch that is not closed in time is cancelled: what waits does not start, and nothing is called."""
    importer = Importer()

    async def story() -> None:
        batch = await importer.batch().__aenter__()
        await batch.add(importer.row.call(1))
        await batch.add(importer.row.using(delay=2 * OPEN_FOR).call(2))
        await batch.flush()
        with pytest.raises(JobCancelled):
            await batch.wait(timeout=OPEN_FOR + 1)
        assert virtual.clock() - virtual.EPOCH >= OPEN_FOR
        await anyio.sleep(3 * OPEN_FOR)
        assert importer.did == {"row": 1}
        with pytest.raises(BatchClosed, match="in time"):
            await batch.close()

    importer.run(story)


def test_an_error_in_the_block_cancels_the_batch() -> None:
    """A sender that cannot go on takes the batch with it; its error is what its caller sees."""
    importer = Importer()

    async def fail(batch: Batch) -> None:
        async with batch:
            await batch.add(importer.row.using(delay=5).call(1))
            await batch.flush()
            raise KeyError("row")

    async def story() -> None:
        batch = importer.batch()
        with pytest.raises(KeyError):
            await fail(batch)
        with pytest.raises(JobCancelled):
            await batch.wait(timeout=0)
        with pytest.raises(BatchClosed):
            await batch.add(importer.row.call(1))
        await anyio.sleep(60)
        assert importer.did == {}

    importer.run(story)


def test_cancelling_and_what_fails() -> None:
    """A closed batch is cancelled by its id; a callback that fails is what the handle tells."""
    importer = Importer()

    async def story() -> None:
        async with importer.batch() as batch:
            await batch.add(importer.row.call(1, seconds=60))
        await anyio.sleep(1)
        assert not await batch.cancel()
        assert await importer.app.workflows.cancel(batch.id)
        await anyio.sleep(600)
        assert importer.did == {"row": 1}
        async with importer.batch(on_complete=importer.row.call(2, fails=True)) as batch:
            pass
        with pytest.raises(JobFailed, match="step row"):
            await batch.wait(timeout=60)
        with pytest.raises(InvalidWorkflow, match="is a batch"):
            await importer.app.workflows.replay(batch.id)

    importer.run(story)


def test_calls_keep_their_options() -> None:
    """Jobs of one batch are of any task, with options and keys of their own; a callback may go on as a workflow."""
    importer = Importer()
    app, seen = importer.app, list[Any]()

    @app.task(name="look")
    async def look(n: int) -> None:
        seen.append((n, current().key, current().headers.get("tenant"), current().correlation_id))

    @app.task(name="keyed", key="n")
    async def keyed(n: int) -> None:
        seen.append((n, current().key, None, None))

    @app.task(name="last")
    async def last(n: int) -> str:
        return continue_with(importer.row.call(n).then(text))

    @app.task(name="text")
    async def text(n: int) -> str:
        seen.append(f"text {n}")
        return str(n)

    async def story() -> None:
        async with app.batch("any", on_success=last.call(9)) as batch:
            await batch.add(look.using(headers={"tenant": "a"}, delay=5).call(1))
            await batch.add(look.using(key="mine").call(2))
            await batch.add(keyed.call(3))
            await batch.add(importer.row.using(timeout=1.0).call(4, seconds=60))
        assert await batch.wait(timeout=60) == BatchProgress(added=4, succeeded=3, failed=1)
        assert sorted(seen) == [(1, None, "a", batch.id), (2, "mine", None, batch.id), (3, "3", None, None)]
        async with app.batch("any", on_success=last.call(9)) as batch:
            pass
        assert await batch.wait(timeout=60) == BatchProgress(added=0, succeeded=0, failed=0)
        assert seen[-1] == "text 9"

    importer.run(story)


def test_what_a_batch_refuses() -> None:
    """Calls that may run at most once, unknown options, and adding outside of the block."""
    importer = Importer()

    @importer.app.task(name="once", delivery="at_most_once")
    async def once() -> None: ...

    async def story() -> None:
        with pytest.raises(InvalidWorkflow, match="at most once"):
            importer.batch(on_complete=once.call())
        with pytest.raises(InvalidSetting, match="on_sucess"):
            importer.batch(on_sucess=importer.ship.call("b"))
        with pytest.raises(BatchClosed, match="not open"):
            await importer.batch().add(importer.row.call(1))
        async with importer.batch() as batch:
            with pytest.raises(InvalidWorkflow, match="at most once"):
                await batch.add(once.call())

    importer.run(story)


# ── deaths ──

JOBS = 3


async def send(stage: Stage) -> Callable[[], Awaitable[JobOutcome[Any]]]:
    """Send a batch as a program that has no time to leave the block when it dies."""

    @stage.app.task(name="row")
    async def row(n: int) -> int:
        stage.note(f"row-{n}")
        return n

    @stage.app.task(name="done")
    async def done(label: str) -> None:
        stage.note(label)

    batch = stage.app.batch("b", on_complete=done.call("complete"), on_success=done.call("success"), open_for=OPEN_FOR)
    stage.sent.append(batch.id)
    await batch.__aenter__()
    for n in range(JOBS):
        await batch.add(row.call(n))
        await batch.flush()
    await batch.close()
    return lambda: stage.app.job(batch.id).outcome(timeout=0)


ONCE = {**{f"row-{n}": 1 for n in range(JOBS)}, "complete": 1, "success": 1}


def judge(did: Counter[str], outcome: JobOutcome[Any], deaths: int) -> None:
    """Check a batch that was closed: everything ran, and twice only where a worker died of it."""
    assert outcome == Succeeded({"added": JOBS, "succeeded": JOBS, "failed": 0})
    assert did.keys() == ONCE.keys()
    assert sum(did.values()) <= len(ONCE) + deaths


def test_a_worker_dies_at_each_failpoint() -> None:
    """Wherever a worker dies, the batch ends with its counts, and its callbacks are sent."""
    passed = visits(send)
    assert len(passed) >= 30
    for visit in range(1, len(passed) + 1):
        played = play(send, [visit])
        judge(played.stage.did, played.outcome, played.deaths)
    for first in range(1, len(passed) + 1, 5):
        played = play(send, [first, 3])
        judge(played.stage.did, played.outcome, played.deaths)


def test_the_sender_dies_at_each_failpoint() -> None:
    """A sender that dies before it has decided leaves a batch that is given up; after that the guard finishes it."""

    async def names_of() -> list[str]:
        stage = Stage()
        async with stage.app:
            with passing() as names:
                await send(stage)
            return names

    async def story(visit: int) -> tuple[Stage, JobOutcome[Any] | None]:
        stage = Stage()
        async with stage.app:
            with pytest.raises(SimulatedCrash), crash_at(visit=visit):
                await send(stage)
            await work(stage)
            try:
                return stage, await stage.app.job(stage.sent[0]).outcome(timeout=0)
            except ResultTimeout:
                return stage, None

    names = anyio.run(names_of, backend_options=virtual.options("asyncio"))
    for visit in range(1, len(names) + 1):
        stage, outcome = anyio.run(story, visit, backend_options=virtual.options("asyncio"))
        if visit > names.index("batch.decided"):
            assert outcome is not None
            judge(stage.did, outcome, 0)
        else:
            assert not {"complete", "success"} & stage.did.keys()
            assert outcome == (None if visit == 1 else Cancelled())  # before the guard there is no batch


async def open_in_a_job(stage: Stage) -> Callable[[], Awaitable[JobOutcome[Any]]]:
    """Send a job that sends a batch, and a second time if its worker dies."""

    @stage.app.task(name="row")
    async def row(n: int) -> int:
        stage.note(f"row-{n}")
        return n

    @stage.app.task(name="done")
    async def done(label: str) -> None:
        stage.note(label)

    @stage.app.task(name="sender")
    async def sender() -> str:
        calls = {"on_complete": done.call("complete"), "on_success": done.call("success")}
        async with stage.app.batch("b", open_for=OPEN_FOR, **calls) as batch:
            for n in range(JOBS):
                await batch.add(row.call(n))
                await batch.flush()
        return batch.id

    job = await sender.enqueue()

    async def outcome() -> JobOutcome[Any]:
        return await stage.app.job(await job.result(timeout=0)).outcome(timeout=0)

    return outcome


def test_a_job_that_sends_a_batch_goes_on_with_it() -> None:
    """The next attempt of a job whose worker died opens the same batch: each of its jobs is there once."""
    for visit in range(1, len(visits(open_in_a_job)) + 1):
        played = play(open_in_a_job, [visit])
        judge(played.stage.did, played.outcome, played.deaths)


def test_an_attempt_that_adds_other_jobs_is_refused() -> None:
    """A second attempt that adds other jobs than the first says so, instead of losing some."""
    importer = Importer()
    app = importer.app

    @app.task(name="fickle", retry=Retry(attempts=2))
    async def fickle() -> None:
        async with app.batch("b") as batch:
            await batch.add(importer.row.call(current().attempt))
            await batch.flush()
            if current().attempt == 1:
                raise ValueError("again")

    async def story() -> None:
        outcome = await (await fickle.enqueue()).outcome(timeout=60)
        assert isinstance(outcome, Dead)
        assert outcome.record is not None
        assert "added other jobs" in outcome.record.message

    importer.run(story)
