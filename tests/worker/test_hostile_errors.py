"""Whatever a task raises becomes an outcome: no error of any shape ends or wedges a worker (C25)."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskcore import App, Dead, Failed, Retry
from taskcore.task import Task
from tests.support import hostile

recipes = st.tuples(
    st.sampled_from(list(hostile.BASES)),
    st.lists(st.sampled_from(hostile.TRAITS), max_size=4, unique=True),
    st.sampled_from([0, 0, 1, 3, 11]),
)


async def outcomes_of(task: Task, given_recipes: list) -> None:
    """Run a job of each recipe, and see that each has ended, with a record, and that the worker goes on."""
    app = App("memory://", retry=Retry(attempts=1), processes=1)
    app.include(hostile.router)
    with anyio.fail_after(60):
        async with app.running(concurrency=4, grace=1):
            jobs = [await task.enqueue(*recipe) for recipe in given_recipes]
            for recipe, job in zip(given_recipes, jobs, strict=True):
                if "Snooze" in recipe:
                    continue  # it may sleep again and again, as it says
                outcome = await job.outcome(timeout=20)
                assert isinstance(outcome, (Dead, Failed)), (recipe, outcome)
                assert outcome.record is not None
                assert len(outcome.record.message) <= 2_000
                assert len(outcome.record.traceback) <= 10_000
            last = await (await task.enqueue("Declared", [], 1)).outcome(timeout=20)
            assert isinstance(last, Failed)
            assert last.error.args == (1,)
            assert (last.record.type, last.record.message) == ("tests.support.hostile.Declared", "1")


@pytest.mark.parametrize("task", [hostile.fail_in_loop, hostile.fail_in_thread], ids=["loop", "thread"])
@given(given_recipes=st.lists(recipes, min_size=5, max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_error_becomes_an_outcome(task: Task, given_recipes: list) -> None:
    """Errors of any class and shape, alone and in groups, end their job with a bounded record; the next job runs."""
    anyio.run(outcomes_of, task, given_recipes)


@given(given_recipes=st.lists(recipes, min_size=20, max_size=40))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_error_of_a_process_becomes_an_outcome(given_recipes: list) -> None:
    """The same for functions in a process: it describes the error and goes on, or its end is the job's error."""
    anyio.run(outcomes_of, hostile.fail_in_process, given_recipes)


@pytest.mark.parametrize("task", [hostile.fail_in_loop, hostile.fail_in_thread, hostile.fail_in_process], ids=str)
def test_each_trait_alone(task: Task) -> None:
    """Each trait, and each base class, for itself."""
    anyio.run(outcomes_of, task, [*(("Exception", [each], 0) for each in hostile.TRAITS)])
    anyio.run(outcomes_of, task, [*((each, [], nested) for each in hostile.BASES for nested in (0, 2, 11))])


@dataclass
class Argument:
    """An argument that ends the program when it arrives."""

    number: int

    def __post_init__(self) -> None:
        if self.number == 2:
            raise SystemExit(7)


@dataclass
class Result:
    """A result that ends the program when it is packed."""

    number: int

    def __eq__(self, other: object) -> bool:
        raise KeyboardInterrupt

    __hash__ = object.__hash__


@pytest.mark.anyio
async def test_classes_of_arguments_and_results_end_no_worker() -> None:
    """SystemExit out of an argument's class, KeyboardInterrupt out of a result's: dead letters, and the next job."""
    app = App("memory://", retry=1)

    @app.task
    async def take(argument: Argument) -> int:
        return argument.number

    @app.task
    async def give() -> Result:
        return Result(1)

    with anyio.fail_after(20):
        async with app.running(concurrency=1):
            payload = msgspec.structs.replace(take.call(Argument(1)), payload=b'{"argument":{"number":2}}')
            [bad] = await app.enqueue_many([payload])
            first, second = await bad.outcome(timeout=5), await (await give.enqueue()).outcome(timeout=5)
            assert await (await take.enqueue(Argument(3))).result(timeout=5) == 3
    assert isinstance(first, Dead)
    assert first.reason.startswith("malformed: ")
    assert isinstance(second, Dead)
    assert second.reason == "result"
