"""Workflows that run: chains, branches, policies, maps, and the handle of a run, in memory under a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Dead, Expired, Failed, Retry, Succeeded, current
from taskcore.errors import JobExpired, JobFailed, ResultTimeout
from taskcore.stores.memory import MemoryStore
from taskcore.workflows import (
    ChildFailure,
    ChildOutcome,
    ChildValue,
    InvalidWorkflow,
    Run,
    WorkflowExists,
    WorkflowNotFound,
)
from tests.support import virtual

pytestmark = pytest.mark.timeout(120)

CONFLICT = 9


class Declined(Exception):
    """A declared error."""


class Shop:
    """An app with some tasks, and what they did."""

    def __init__(self, **settings: Any) -> None:
        self.store = MemoryStore()
        self.app = app = App("memory://", store=self.store, clock=virtual.clock, retry=Retry(attempts=1), **settings)
        self.ran: Counter[str] = Counter()

        @app.task(name="add")
        async def add(a: int, b: int = 1) -> int:
            self.ran["add"] += 1
            return a + b

        @app.task(name="fail", raises=(Declined,))
        async def fail(a: int, b: int = 0) -> int:
            self.ran["fail"] += 1
            if a == b:
                raise Declined("as asked")
            return a

        @app.task(name="numbers")
        async def numbers(n: int) -> list[int]:
            return list(range(n))

        @app.task(name="total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="tell")
        async def tell(children: list[ChildOutcome[int]]) -> list[str]:
            return [
                str(one.value)
                if isinstance(one, ChildValue)
                else f"{one.state} {one.error.partition(':')[0].rpartition('.')[2]}".strip()
                for one in children
            ]

        @app.task(name="is-even")
        async def is_even(a: int) -> bool:
            return a % 2 == 0

        @app.task(name="maybe")
        async def maybe(a: int | None) -> str:
            return "nothing" if a is None else str(a)

        @app.task(name="sleep")
        async def sleep(seconds: float, a: int = 0) -> int:
            self.ran["sleep"] += 1
            await anyio.sleep(seconds)
            return a

        self.add, self.fail, self.numbers, self.total = add, fail, numbers, total
        self.tell, self.is_even, self.maybe, self.sleep = tell, is_even, maybe, sleep


def play(story: Callable[[Shop], Awaitable[Any]], **settings: Any) -> Any:
    """Run a story on a shop whose time is virtual."""

    async def run() -> Any:
        shop = Shop(**settings)
        async with shop.app.running():
            with anyio.fail_after(10 * 86_400):
                return await story(shop)

    return anyio.run(run, backend_options=virtual.options("asyncio"))


def test_a_chain() -> None:
    """Each result is the first argument of the next task; a chain may be sent again, and its value is typed."""

    async def story(shop: Shop) -> None:
        chain = shop.add.call(1).then(shop.add, b=10).then(shop.maybe)
        run = await chain.submit()
        assert await run.result(timeout=5) == "12"
        assert await (await chain.submit(deadline="1h", keep="1h")).result(timeout=5) == "12"
        assert [step.name for step in run.plan.steps] == ["add", "add-2", "maybe"]
        assert await run["add-2"].result(timeout=5) == 12
        assert shop.ran["add"] == 4

    play(story)


def test_the_options_of_a_call_are_those_of_its_step() -> None:
    """Queue, delay, timeout and headers of ``using`` hold for the step."""

    async def story(shop: Shop) -> None:
        slow = shop.sleep.using(timeout="1s", delay="30s", headers={"tenant": "7"})
        run = await shop.add.using(delay="1m").call(1).then(slow, 5).submit()
        began = virtual.clock()
        outcome = await run.outcome()
        assert isinstance(outcome, Dead)
        assert "sleep" in outcome.reason
        assert 91 <= virtual.clock() - began < 95
        assert run.plan.steps[1].headers == {"tenant": "7"}

    play(story)


def test_a_graph() -> None:
    """Steps wait for all that they take, and for what is named with ``after``."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("graph")
        one = workflow.step(shop.add, 1)
        left, right = workflow.step(shop.add, one.out, 10), workflow.step(shop.sleep, 100.0, one.out)
        done = workflow.step(shop.add, left.out, right.out)
        last = done.then(shop.maybe).after(left)
        run = await workflow.submit(last)
        assert await run.result() == "14"
        assert await run[done].result() == 14
        progress = await run.progress()
        assert (progress.total, progress.succeeded, progress.waiting) == (5, 5, 0)

    play(story)


def test_branches() -> None:
    """A step whose flag is false is skipped, with all that take its result; ``first_of`` joins branches."""

    async def story(shop: Shop, number: int) -> tuple[str, str]:
        workflow = shop.app.workflow("branches")
        even = workflow.step(shop.is_even, number)
        big = workflow.step(shop.add, 100).when(even.out)
        behind = workflow.step(shop.add, big.out)
        small = workflow.step(shop.add, 0)
        first = workflow.first_of(behind, small)
        done = workflow.step(shop.maybe, first.out)
        run = await workflow.submit(done)
        return await run.result(), (await run.state()).steps[2].status

    assert play(lambda shop: story(shop, 2)) == ("102", "succeeded")
    assert play(lambda shop: story(shop, 1)) == ("1", "skipped")


def test_first_of_may_be_the_last() -> None:
    """A workflow may end with the first of several steps that has a result."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("first")
        even = workflow.step(shop.is_even, 3)
        run = await workflow.submit(
            workflow.first_of(workflow.step(shop.add, 1).when(even.out), workflow.step(shop.add, 5))
        )
        assert await run.result() == 6
        assert await (await shop.app.workflows.get(run.id)).result() == 6

    play(story)


def test_failure_ends_a_workflow_at_once() -> None:
    """Without a policy the first failure is the workflow's, with the step's name; waiting steps do not run."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("fails")
        bad = workflow.step(shop.fail, 0)
        slow = workflow.step(shop.sleep, 3600.0)
        done = workflow.step(shop.add, bad.out, slow.out)
        run = await workflow.submit(done)
        began = virtual.clock()
        outcome = await run.outcome()
        assert isinstance(outcome, Dead)
        assert outcome.reason.startswith("step fail: ")
        assert outcome.record is not None
        assert outcome.record.type.endswith(".Declined")
        assert virtual.clock() - began < 1
        with pytest.raises(JobFailed, match="step fail"):
            await run.result()
        await anyio.sleep(4000)
        assert shop.ran["add"] == 0
        assert [step.status for step in (await run.state()).steps] == ["dead", "succeeded", "stopped"]

    play(story)


def test_the_last_steps_error_is_typed() -> None:
    """A declared error of the last step arrives as itself."""

    async def story(shop: Shop) -> None:
        outcome = await (await shop.add.call(-1).then(shop.fail).submit()).outcome()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, Declined)

    play(story)


def test_policies() -> None:
    """A value, another task, or nothing may stand in for a step that fails."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("policies")
        value = workflow.step(shop.fail, 0).otherwise(7)
        none = workflow.step(shop.fail, 0).otherwise(None)
        other = workflow.step(shop.fail, 0).otherwise(shop.add, 41)
        good = workflow.step(shop.fail, 3).otherwise(shop.add, 41)
        lost = workflow.step(shop.fail, 0).skip()
        never = workflow.step(shop.add, lost.out)
        text = workflow.step(shop.maybe, none.out)
        done = workflow.step(shop.total, workflow.map(shop.add, [1]).out).after(never)
        end = workflow.step(shop.add, value.out, other.out).after(text, done)
        run = await workflow.submit(end)
        assert await run.result() == 49
        assert await run[text].result() == "nothing"
        assert isinstance(await run[never].outcome(), Cancelled)
        assert await run[good].result() == 3
        states = {step.name: step.status for step in (await run.state()).steps}
        assert states["add"] == "succeeded"
        assert states["add-2"] == "skipped"
        assert states["add-3"] == "skipped"

    play(story)


def test_alternatives_may_be_the_last() -> None:
    """The last step may have an alternative, or a value of another type in its place."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("one")
        assert await (await workflow.submit(workflow.step(shop.fail, 0).otherwise(shop.add, 1))).result() == 2
        workflow = shop.app.workflow("two")
        run = await workflow.submit(workflow.step(shop.fail, 0).otherwise(None))
        assert await run.result() is None
        workflow = shop.app.workflow("three")
        run2 = await workflow.submit(workflow.step(shop.fail, 0).otherwise("none"))
        assert await run2.result() == "none"

    play(story)


@pytest.mark.parametrize("number", [0, 1, 2, 255, 256, 257, 1000, 4097])
def test_maps_of_known_lists(number: int) -> None:
    """The list of results is in the order of the elements, for any number of children."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("map")
        doubled = workflow.map(shop.add, range(number), b=100)
        again = workflow.map(shop.add, doubled.out) if number < 1000 else doubled
        run = await workflow.submit(again)
        assert await run.result() == [one + 100 + (again is not doubled) for one in range(number)]
        ran = number * (2 if again is not doubled else 1)
        assert shop.ran["add"] == ran
        progress = await run.progress()
        assert (progress.total, progress.succeeded) == (ran, ran)
        if number:
            assert await run.child(doubled, number - 1).result() == number + 99

    play(story, concurrency=200)


@pytest.mark.parametrize("number", [0, 1, 256, 257, 1201])
def test_maps_of_lists_that_a_step_returns(number: int) -> None:
    """A map goes over what a step returns, and a step takes all of it."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("map")
        found = workflow.step(shop.numbers, number)
        done = workflow.map(shop.add, found.out).then(shop.total)
        run = await workflow.submit(done)
        assert await run.result() == sum(range(1, number + 1))

    play(story, concurrency=200)


def test_a_map_over_a_map_that_also_waits() -> None:
    """A map that takes another map's children and something else waits for all of both."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("map")
        ten = workflow.step(shop.sleep, 60.0, 10)
        first = workflow.map(shop.fail, range(700), b=3).skip()
        second = workflow.map(shop.add, first.out, b=ten.out)
        run = await workflow.submit(second)
        assert await run.result() == [one + 10 for one in range(700) if one != 3]

    play(story, concurrency=200)


def test_a_child_that_fails() -> None:
    """By default it fails the workflow at once; a value may stand in; or children without result are left out."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("default")
        run = await workflow.submit(workflow.map(shop.fail, range(10), b=CONFLICT).then(shop.total))
        outcome = await run.outcome()
        assert isinstance(outcome, Dead)
        assert outcome.reason.startswith("step fail[9]: ")
        workflow = shop.app.workflow("value")
        run = await workflow.submit(workflow.map(shop.fail, range(4), b=1).otherwise(50).then(shop.total))
        assert await run.result() == 55
        workflow = shop.app.workflow("skip")
        run2 = await workflow.submit(workflow.map(shop.fail, range(4), b=1).skip())
        assert await run2.result() == [0, 2, 3]

    play(story)


def test_outcomes_of_children() -> None:
    """A task may take how each child ended; with too few successes the workflow fails."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("outcomes")
        children = workflow.map(shop.fail, range(4), b=1)
        run = await workflow.submit(workflow.step(shop.tell, children.outcomes(at_least=0.75)))
        assert await run.result() == ["0", "dead Declined", "2", "3"]
        workflow = shop.app.workflow("too few")
        children = workflow.map(shop.fail, range(4), b=1)
        run = await workflow.submit(workflow.step(shop.tell, children.outcomes(at_least=0.76)))
        outcome = await run.outcome()
        assert isinstance(outcome, Dead)
        assert outcome.reason == "step fail: too few of its children succeeded"
        workflow = shop.app.workflow("last")
        children = workflow.map(shop.fail, range(2), b=1)
        children.outcomes()
        found: Any = await (await workflow.submit(children)).result()
        assert found[0] == ChildValue(0)
        assert isinstance(found[1], ChildFailure)

    play(story)


def test_cancelling() -> None:
    """Cancelling 10,000 waiting children is one write of two records; none of them runs afterwards."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("wide")
        run = await workflow.submit(workflow.map(shop.sleep, [60.0] * 10_000).then(shop.total))
        await anyio.sleep(30)
        writes: list[int] = []
        put_many = shop.store.put_many

        async def counting(batch: Any) -> Any:
            writes.append(len(batch))
            return await put_many(batch)

        shop.store.put_many = counting  # type: ignore[method-assign]
        assert await run.cancel()
        shop.store.put_many = put_many  # type: ignore[method-assign]
        assert writes == [2]
        assert not await run.cancel()
        ran = shop.ran["sleep"]
        assert ran < 300
        assert isinstance(await run.outcome(), Cancelled)
        await shop.app.drain()
        assert shop.ran["sleep"] == ran

    play(story, concurrency=200)


def test_a_cancelled_workflow_that_has_ended() -> None:
    """A workflow that ended well stays so."""

    async def story(shop: Shop) -> None:
        run = await shop.add.call(1).then(shop.add).submit()
        assert await run.result() == 3
        assert not await run.cancel()
        assert await run.result() == 3

    play(story)


def test_a_step_is_not_cancelled_alone() -> None:
    """The handle of a step's job refuses to cancel it: its workflow would wait for it."""

    async def story(shop: Shop) -> None:
        run = await shop.sleep.call(100.0).then(shop.maybe).submit()
        with pytest.raises(InvalidWorkflow, match=r"run\.cancel"):
            await run["sleep"].cancel()

    play(story)


def test_deadlines() -> None:
    """No step starts after the deadline, and callers learn that it passed."""

    async def story(shop: Shop) -> None:
        run = await shop.sleep.call(100.0).then(shop.add).submit(deadline="1m")
        with pytest.raises(ResultTimeout):
            await run.result(timeout=30)
        assert isinstance(await run.outcome(), Expired)
        assert shop.ran["add"] == 0

    play(story)


def test_a_workflow_whose_step_is_lost_ends() -> None:
    """A caller waits for ever for no workflow: one whose step is gone from its broker ends after its deadline."""

    async def story(shop: Shop) -> None:
        run = await shop.add.using(delay="1m").call(1).then(shop.add).submit(deadline="1h")
        assert await shop.app.purge("default") == 1
        began = virtual.clock()
        with pytest.raises(JobExpired):
            await run.result()
        assert 3600 < virtual.clock() - began < 4300
        assert (await run.state()).status == "expired"

    play(story)


def test_ids() -> None:
    """The same workflow under the same id is sent once; another one is refused."""

    async def story(shop: Shop) -> None:
        def build(number: int) -> Any:
            return shop.add.call(number).then(shop.add)

        first, second = await build(1).submit(id="mine"), await build(1).submit(id="mine")
        assert first == second
        assert hash(first) == hash(second)
        assert await second.result() == 3
        assert await (await build(1).submit(id="mine")).result() == 3
        assert shop.ran["add"] == 2
        with pytest.raises(WorkflowExists, match="another workflow with the id mine"):
            await build(2).submit(id="mine")

    play(story)


def test_asking_for_a_workflow() -> None:
    """A workflow is found by its id, with the types of its tasks; what there is none of is said."""

    async def story(shop: Shop) -> None:
        run = await shop.add.call(1).then(shop.add).submit()
        found = await shop.app.workflows.get(run.id)
        assert isinstance(found, Run)
        assert await found.result() == 3
        assert await found["add"].result() == 2
        with pytest.raises(InvalidWorkflow, match="its steps: add, add-2"):
            found["count"]
        with pytest.raises(WorkflowNotFound):
            await shop.app.workflows.get("nothing")
        with pytest.raises(WorkflowNotFound):
            await shop.app.workflows.show("nothing\n")
        state = await shop.app.workflows.show(run.id)
        assert (state.status, state.progress.succeeded) == ("succeeded", 2)
        assert [one.id async for one in shop.app.workflows.recent()] == [run.id]
        assert not await shop.app.workflows.cancel(run.id)

    play(story)


def test_progress_while_it_runs() -> None:
    """Progress counts children that have ended, and names what waits for what."""

    async def story(shop: Shop) -> None:
        workflow = shop.app.workflow("progress")
        naps = workflow.map(shop.sleep, [10.0] * 100 + [1000.0] * 200)
        done = naps.then(shop.total)
        run = await workflow.submit(done)
        await anyio.sleep(100)
        progress = await run.progress()
        assert (progress.total, progress.succeeded, progress.waiting) == (301, 100, 201)
        state = await run.state()
        assert [(step.name, step.status, step.waits_for) for step in state.steps] == [
            ("sleep", "ready", ()),
            ("total", "waiting", ("sleep",)),
        ]

    play(story, concurrency=300)


def test_replay() -> None:
    """A failed workflow goes on where it failed: what succeeded does not run again; it is replayed once."""

    async def story(shop: Shop) -> None:
        broken = True

        @shop.app.task(name="flaky")
        async def flaky(a: int) -> int:
            shop.ran["flaky"] += 1
            if broken and a == 300:
                raise ValueError("broken")
            return a

        workflow = shop.app.workflow("replay")
        one = workflow.step(shop.add, 1)
        many = workflow.map(flaky, range(301)).after(one)
        done = workflow.step(shop.add, workflow.step(shop.total, many.out).out, one.out)
        run = await workflow.submit(done)
        assert isinstance(await run.outcome(), Dead)
        await shop.app.drain()
        broken, before = False, shop.ran["flaky"]
        again = await shop.app.workflows.replay(run.id)
        assert again.id != run.id
        assert await again.result() == sum(range(301)) + 2
        assert (await shop.app.workflows.replay(run.id)).id == again.id
        assert shop.ran["flaky"] == before + 1
        assert shop.ran["add"] == 2
        assert isinstance(await run.outcome(), Dead)

    play(story, concurrency=400)


def test_steps_belong_together() -> None:
    """A step's job has the workflow as its parent and correlation; a workflow that a job sends has the job's."""

    async def story(shop: Shop) -> None:
        seen: list[Any] = []

        @shop.app.task(name="look")
        async def look(a: int = 0) -> int:
            seen.append(current())
            return a

        run = await look.call().then(look).submit()
        await run.result()
        assert {one.envelope.correlation_id for one in seen} == {run.id}
        assert {one.envelope.parent_id for one in seen} == {run.id}

        @shop.app.task(name="send")
        async def send() -> str:
            return (await look.call().then(look).submit()).id

        seen.clear()
        job = await send.enqueue()
        await (await shop.app.workflows.get(await job.result())).result()
        assert {one.envelope.correlation_id for one in seen} == {job.id}

    play(story)


def test_keys() -> None:
    """The key of a task counts in steps: a second step gets the first's result; other arguments are refused."""

    async def story(shop: Shop) -> None:
        @shop.app.task(name="charge", key="order")
        async def charge(a: int, order: str = "7") -> int:
            shop.ran["charge"] += 1
            return a

        assert await (await shop.add.call(1).then(charge).submit()).result() == 2
        assert await (await shop.add.call(1).then(charge).submit()).result() == 2
        assert shop.ran["charge"] == 1
        outcome = await (await shop.add.call(5).then(charge).submit()).outcome()
        assert isinstance(outcome, Dead)
        assert "was used with other arguments" in outcome.reason
        assert await (await shop.add.call(5).then(charge.using(key="8")).submit()).result() == 6
        assert shop.ran["charge"] == 2

    play(story)


def test_results_are_kept_for_steps_of_tasks_that_keep_none() -> None:
    """A task that keeps no results is a step like any other."""

    async def story(shop: Shop) -> None:
        @shop.app.task(name="quiet", keep_result=None)
        async def quiet(a: int) -> int:
            return a + 1

        run = await quiet.call(1).then(quiet).then(quiet).submit()
        assert isinstance(await run.outcome(), Succeeded)
        assert await run.result() == 4

    play(story)
