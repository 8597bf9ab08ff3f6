"""Random histories of clients, workers, strangers, crashes and cuts, in memory, under a virtual clock."""

from __future__ import annotations

import msgspec
import pytest

from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import machine
from taskcore.conformance.model.rules import open_rules
from taskcore.conformance.model.system import ACTS
from taskcore.conformance.step_worker import StepWorker
from taskcore.testing.clock import run_virtually


def make_harness():
    """Lease for 32 seconds, which makes every time of the model a whole number that can be compared exactly."""
    return Harness.in_memory(lease=32.0)


TestModel = pytest.mark.timeout(300)(machine(make_harness).TestCase)  # finding takes seconds, shrinking a minute


def test_a_broken_promise_is_shown_with_its_steps():
    """A failure shows what happened, and which clause it breaks."""
    with open_rules(make_harness) as rules:
        model = rules.enqueue()
        rules.work("1", rules.take("1"), "succeeds")
        with pytest.raises(ClauseViolated) as caught, rules.explaining():
            model.violated("C0", "is an example")
    steps = "enqueue A; worker 1 takes A; A succeeds; worker 1 settles A → C0 broken: A is an example"
    assert str(caught.value) == steps


def test_a_death_between_two_attempts_keeps_the_fence_growing():
    """A key's record may be gone before its job is; the next holder's fence is higher all the same."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.enqueue(key="k")
        rules.work("1", rules.take("1"), "fails")
        rules.wait(129)
        rules.work("1", rules.take("1"), "succeeds")
        rules.finish()
    first, second = rules.system.starts
    assert first.fence < second.fence


def test_a_job_longer_than_its_key_window_runs_once():
    """A run that takes longer than the key's window commits all the same, instead of running again and again."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.enqueue(key="k")
        held = rules.take("1")
        rules.perform("1", held, ACTS["succeeds"])
        for _ in range(5):
            rules.wait(31)
            rules.extend("1", held)
        rules.settle("1", held)
        rules.finish()
    assert len(rules.system.starts) == 1


def test_a_death_that_was_recorded_is_carried_out_with_its_error():
    """The worker dies between the record and the letter; the letter has the last error all the same (C13)."""
    with open_rules(make_harness) as rules, rules.explaining():
        model = rules.enqueue()
        held = rules.take("1")
        rules.perform("1", held, ACTS["fails for good"])
        rules.settle("1", held, crash=1)
        rules.finish()
        assert [state.errors for state in model.states] == [("A#1",)]


def test_the_first_outcome_stands():
    """A slow worker recorded a success; a worker that has the job meanwhile cannot make it a dead letter (C18)."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.live(["another worker ends it meanwhile"])
        rules.finish()


def test_an_outcome_that_was_read_is_not_withdrawn():
    """A worker whose lease ends while its verdict travels takes nothing back that another one has built on (C8)."""
    with open_rules(make_harness) as rules, rules.explaining():
        model = rules.enqueue()
        held = rules.take("1")
        rules.perform("1", held, ACTS["succeeds"])
        source = held.job.source

        class Slow:
            async def settle(self, batch):
                await rules.system.harness.sleep(33)
                assert await rules.system.workers["2"].work(await rules.system.workers["2"].take())
                return await source.settle(batch)

        held.job.source = Slow()
        assert not rules.run(rules.system.workers["1"].settle, held.conclusion)
        assert rules.run(rules.system.outcome_of, model.id).state == "succeeded"


def test_a_late_holder_commits_nothing_for_a_dead_job():
    """A job that was buried as poison meanwhile has no outcome, so its key is free for the next job (C10)."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.live(["its worker dies running it"] * 2, key="k")
        late = rules.take("1", within=200.0)
        rules.perform("1", late, ACTS["succeeds"])
        rules.wait(33)
        held = rules.take("2")
        rules.work("2", held, "succeeds")
        rules.settle("1", late)
        rules.look()
        rules.enqueue(key="k")
        rules.finish()
    assert [model.outcome.state for model in rules.models] == ["dead", "succeeded"]


def test_an_interrupted_cancelling_is_finished_by_the_next():
    """If a job is removed but not recorded, the next cancel call records it, and every caller can read it."""
    with open_rules(make_harness) as rules, rules.explaining():
        model = rules.enqueue()
        rules.cancel(model, crash=2)
        rules.cancel(model)
        assert model.cancelled
        rules.finish()


def test_a_job_that_never_started_is_no_poison():
    """With crashes=1, a job that a dying worker held but never started is still started by the next (C12)."""

    async def scenario():
        async with make_harness() as harness:
            app, queue = await harness.app(), harness.queue()

            @app.task(name="work", queue=queue, crashes=1)
            async def work() -> str:
                return "done"

            job = await work.enqueue()
            async with StepWorker(app, [queue]) as dying:
                await dying.take()
            await harness.sleep(harness.lease + 1)
            step_worker = await harness.step_worker(app, queue)
            assert await step_worker.work(await step_worker.take())
            assert await job.result(timeout=1) == "done"

    run_virtually(scenario)


def test_no_id_is_sent_again_without_dedup():
    """A broker without dedup keeps two jobs of one id, so the model does not ask it for that."""
    model = machine(make_harness)()
    model.model_rules.enqueue()
    assert model.repeatable
    harness = model.model_rules.system.harness
    harness.features = msgspec.structs.replace(harness.features, dedup="absent")
    assert not model.repeatable
    model.model_rules.models.clear()  # nothing to finish
    model.teardown()


def test_a_job_that_is_given_back_too_late_is_named():
    """A worker that gives back a job it never started, and has lost already, names that job (C19)."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.enqueue()
        held = rules.take("1")
        rules.wait(33)
        rules.release("1", held)
        rules.finish()
    assert rules.expected_events["job.lost"] == 1


def test_the_death_that_was_recorded_is_the_one_that_counts():
    """A first worker died before its outcome was stored, a second one after: the letter has the second one's error."""
    with open_rules(make_harness) as rules, rules.explaining():
        model = rules.enqueue(key="k")
        for point in (1, 2):  # settle.committed, settle.ended
            held = rules.take("1", within=200.0)
            rules.perform("1", held, ACTS["fails for good"])
            rules.settle("1", held, crash=point)
            rules.look()
        rules.finish()
        assert [state.errors for state in model.states] == [("k#2",)]
