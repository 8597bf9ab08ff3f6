"""What is broken ends a workflow, or parks its step, with a reason: lost records, unknown tasks, formats, sizes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import App, Dead, EnqueueRefused, Expired, Retry, Succeeded, current
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from taskcore.workflows.decide import StepKey
from taskcore.workflows.names import list_name, plan_name, step_id
from taskcore.workflows.plan import PLAN_FORMAT, NewerPlan, decode_plan
from tests.support import virtual
from tests.workflows.mortals import Mortals

pytestmark = pytest.mark.timeout(120)


class Two:
    """A sender and a worker over one broker and one store, each with tasks of its own."""

    def __init__(self, limit: int = 0, **settings: Any) -> None:
        self.backend, self.store = MemoryBackend(f"memory://?limit={limit}" if limit else "memory://"), MemoryStore()
        self.sender, self.worker = (self._make(settings) for _ in range(2))
        for app in (self.sender, self.worker):
            add_tasks(app)

    def _make(self, settings: Any) -> App:
        return App(
            self.backend, store=self.store, clock=virtual.clock, retry=Retry(attempts=1), heartbeat=0, **settings
        )


def add_tasks(app: App) -> None:
    """Give an app the tasks that both have."""

    @app.task(name="add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @app.task(name="large")
    async def large(a: int) -> str:
        return "x" * a

    @app.task(name="length")
    async def length(texts: list[str]) -> int:
        return sum(map(len, texts))

    @app.task(name="size")
    async def size(text: str) -> int:
        return len(text)


def play(story: Callable[[Two], Awaitable[None]], **settings: Any) -> None:
    """Run a story under a virtual clock."""

    async def run() -> None:
        with anyio.fail_after(10 * 86_400):
            await story(Two(**settings))

    anyio.run(run, backend_options=virtual.options("asyncio"))


async def ends_soon(run: Any) -> Dead:
    """Expect a workflow to be dead within a second."""
    outcome = await run.outcome(timeout=1)
    assert isinstance(outcome, Dead), outcome
    return outcome


def test_a_plan_that_is_gone() -> None:
    """A store that lost the plan ends the workflow with that reason, as a dead letter, within a second."""

    async def story(two: Two) -> None:
        add: Any = two.sender.tasks["add"]
        async with two.sender:
            run = await add.call(1).then(add).submit()
            assert await two.store.delete(plan_name(run.id), expect=two.store._find(plan_name(run.id)).version)
            async with two.worker.running():
                assert "plan of the workflow is gone" in (await ends_soon(run)).reason
            [letter] = [letter async for letter in two.sender.dead_letters.read()]
            assert "plan of the workflow is gone" in letter.reason

    play(story)


def test_a_plan_that_is_damaged() -> None:
    """A plan that cannot be read ends the workflow with that reason."""

    async def story(two: Two) -> None:
        add: Any = two.sender.tasks["add"]
        async with two.sender:
            run = await add.call(1).then(add).submit()
            version = two.store._find(plan_name(run.id)).version
            await two.store.put(plan_name(run.id), b'{"name": 5}', expect=version, keep=100)
            async with two.worker.running():
                assert "cannot be read" in (await ends_soon(run)).reason

    play(story)


def test_a_list_that_is_gone() -> None:
    """A map whose list the store lost fails its workflow, whatever its policy for children is."""

    async def story(two: Two) -> None:
        add: Any = two.sender.tasks["add"]
        async with two.sender:
            workflow = two.sender.workflow("map")
            run = await workflow.submit(workflow.map(add, range(10)).skip())
            name = list_name(run.id, 0, 0)
            assert await two.store.delete(name, expect=two.store._find(name).version)
            async with two.worker.running():
                assert "list of add is gone" in (await ends_soon(run)).reason

    play(story)


def test_a_task_that_no_worker_has_any_more() -> None:
    """A step of an unknown task is parked; a worker that has it goes on; after ``park_for`` its workflow is dead."""

    async def story(two: Two) -> None:
        @two.sender.task(name="gone")
        async def gone(a: int) -> int:
            return a + 100

        async with two.sender:
            add: Any = two.sender.tasks["add"]
            first, second = (
                await add.call(1).then(gone).submit(),
                await add.call(1).then(gone).submit(deadline="9d", keep="9d"),
            )
            async with two.worker.running():
                await anyio.sleep(20)
                assert (await two.sender.stats()).scheduled == 2
                assert [step.status for step in (await first.state()).steps] == ["succeeded", "ready"]
                await anyio.sleep(2 * 3_600)
                assert isinstance(await second.outcome(), Dead)
                assert "unknown task" in (await second.outcome()).reason  # type: ignore[union-attr]
            third = await add.call(1).then(gone).submit()
            async with two.worker.running():
                await anyio.sleep(20)
            async with two.sender.running():
                assert await third.result() == 102

    play(story, park_for=3_600.0)


def test_results_that_are_too_large() -> None:
    """A result over the limit is that step's failure; so are results of a map that are too large together."""

    async def story(two: Two) -> None:
        large: Any = two.sender.tasks["large"]
        async with two.sender, two.worker.running():
            run = await large.call(5_000_000).then(two.sender.tasks["size"]).submit()
            assert "step large: " in (await run.outcome()).reason  # type: ignore[union-attr]
            workflow = two.sender.workflow("wide")
            wide = workflow.map(large, [200_000] * 60).then(two.sender.tasks["length"])
            assert "have more than 8,388,608 bytes together" in (await (await workflow.submit(wide)).outcome()).reason  # type: ignore[union-attr]

    play(story)


def test_a_queue_that_is_full(caplog: pytest.LogCaptureFixture) -> None:
    """A step that is refused is named in the log within a second, and comes when there is room; a first one at once."""

    async def story(two: Two) -> None:
        add: Any = two.sender.tasks["add"]
        elsewhere = add.using(queue="small")
        async with two.sender:
            blocking = await elsewhere.enqueue(1)
            with pytest.raises(EnqueueRefused, match="full"):
                await elsewhere.call(1).then(add).submit()
            async with two.worker.running(queues=["default"]):
                run = await add.call(1).then(elsewhere).submit()
                await anyio.sleep(1)
                assert "the broker refuses what follows" in caplog.text
                assert "full" in caplog.text
                assert await blocking.cancel()
                await anyio.sleep(10)
                async with two.worker.running(queues=["small"]):
                    assert await run.result(timeout=1) == 3
            expired = await add.call(1).then(elsewhere).submit(deadline="1m")
            await elsewhere.enqueue(1)
            async with two.worker.running(queues=["default"]):
                assert isinstance(await expired.outcome(), Expired)

    play(story, limit=1)


def test_a_worker_of_the_release_before() -> None:
    """A worker that knows no workflows parks their jobs; none is lost, run alone or buried, and a newer one goes on."""

    async def story(two: Two) -> None:
        from taskcore.worker.hosting import WorkerChoice, make_worker  # noqa: PLC0415 - for this test only

        add: Any = two.sender.tasks["add"]
        async with two.sender, two.worker:
            older = make_worker(two.worker.components, two.worker.settings, two.worker.tasks, WorkerChoice())
            older._performer.admission.workflows = None
            async with anyio.create_task_group() as group:
                group.start_soon(older.run)
                run = await add.call(1).then(add).then(add).submit()
                await anyio.sleep(600)
                stats = await two.sender.stats()
                assert (stats.dead, stats.ready + stats.leased + stats.scheduled) == (0, 1)
                group.cancel_scope.cancel()
            async with two.sender.running():
                assert await run.result() == 4

    play(story)


def test_steps_and_plans_of_the_release_behind() -> None:
    """A worker parks a step whose format, or whose plan's format, is newer than its own."""
    newer = b'{"v": %d, "name": "x", "steps": 5}' % (PLAN_FORMAT + 1)
    with pytest.raises(NewerPlan):
        decode_plan(newer)

    async def story(two: Two) -> None:
        add: Any = two.sender.tasks["add"]
        async with two.sender:
            run = await add.call(1).then(add).submit()
            there = two.store._find(plan_name(run.id))
            await two.store.put(plan_name(run.id), newer, expect=there.version, keep=86_400)
            async with two.worker.running():
                await anyio.sleep(100)
                assert (await two.sender.stats()).scheduled == 1
            now = two.store._find(plan_name(run.id))
            await two.store.put(plan_name(run.id), there.value, expect=now.version, keep=86_400)
            async with two.worker.running():
                assert await run.result() == 3

    play(story)


@pytest.mark.parametrize(
    "of",
    [
        {},
        {"workflow": "x"},
        {"workflow": "x", "part": "child", "step": 999, "index": 5},
        {"workflow": "a\nb"},
        {"workflow": "x", "part": "loop"},
        5,
    ],
)
def test_bytes_that_are_no_step(of: Any) -> None:
    """A job of format 2 that is no step, or of no workflow, is a dead letter with a reason, and ends no worker."""

    async def story(two: Two) -> None:
        from taskcore.backend import Outgoing  # noqa: PLC0415 - for this test only

        envelope = {"v": 2, "id": "bad", "task": "add", "args": {}, "enqueued_at": 1.0, "of": of}
        async with two.sender, two.worker.running():
            await two.backend.publish([Outgoing("default", "bad", msgspec.json.encode(envelope))])
            await anyio.sleep(1)
            [letter] = [letter async for letter in two.sender.dead_letters.read()]
            assert "workflow" in letter.reason
            add: Any = two.sender.tasks["add"]
            assert await (await add.call(1).then(add).submit()).result() == 3

    play(story)


def test_keyed_chains_on_workers_that_die() -> None:
    """200 chains of 5 keyed steps, workers dying all the time: what is handed on is what is recorded, once for each."""
    dice = random.Random(11)
    mortals: Mortals

    def declare(app: App) -> None:
        @app.task(name="charge", key=("chain", "place"), crashes=1_000)
        async def charge(tokens: list[str], chain: int, place: int) -> list[str]:
            mortals.note_start()
            await anyio.sleep(dice.random() * 2)
            return [*tokens, f"{chain}/{place}/{current().fence}/{dice.random()}"]

    async def story() -> None:
        nonlocal mortals
        mortals = Mortals(declare, workers=3, lease=10.0, concurrency=20)
        async with mortals.living(mortals.at_random(dice, until=virtual.EPOCH + 120, life=4.0)) as app:
            charge: Any = app.tasks["charge"]
            runs = []
            for chain in range(200):
                calls = charge.call([], chain, 0)
                for place in range(1, 5):
                    calls = calls.then(charge, chain=chain, place=place)
                runs.append(await calls.submit())
            for chain, run in enumerate(runs):
                outcome = await run.outcome(timeout=3_000)
                assert isinstance(outcome, Succeeded), outcome
                assert [token.split("/")[:2] for token in outcome.value] == [[str(chain), str(n)] for n in range(5)]
                for place in range(5):
                    recorded = await charge.job(step_id(run.id, StepKey(place))).result(timeout=1)
                    assert recorded == outcome.value[: place + 1]
        assert mortals.deaths > 20
        assert not mortals.too_late
        assert len(mortals.started) == 1_000

    anyio.run(story, backend_options=virtual.options("asyncio"))
