"""Random stories of clients, workers, strangers, crashes and cuts, in memory, under a virtual clock."""

from __future__ import annotations

import msgspec
import pytest

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.job import Broken
from taskcore.conformance.model.machine import machine
from taskcore.conformance.model.rules import playing
from taskcore.conformance.model.system import ACTS
from taskcore.conformance.step_worker import StepWorker
from taskcore.testing.clock import run_virtually


def make_stage():
    """A lease of 32 seconds makes every time of the model a whole number, so that times can be compared exactly."""
    return Harness.in_memory(lease=32.0)


TestModel = pytest.mark.timeout(300)(machine(make_stage).TestCase)  # finding takes seconds, shrinking a minute


def test_a_broken_promise_is_told_as_a_story():
    """Whoever reads a failure reads what happened, and which clause it breaks."""
    with playing(make_stage) as play:
        tale = play.enqueue()
        play.work("1", play.take("1"), "succeeds")
        with pytest.raises(Broken) as caught, play.telling():
            tale.broken("C0", "is an example")
    story = "enqueue A; worker 1 takes A; A succeeds; worker 1 settles A → C0 broken: A is an example"
    assert str(caught.value) == story


def test_a_death_between_two_attempts_keeps_the_fence_growing():
    """A key's record may be gone before its job is; the next holder's fence is higher all the same."""
    with playing(make_stage) as play, play.telling():
        play.enqueue(key="k")
        play.work("1", play.take("1"), "fails")
        play.wait(129)
        play.work("1", play.take("1"), "succeeds")
        play.finish()
    first, second = play.world.starts
    assert first.fence < second.fence


def test_a_job_that_outlives_its_key_runs_once():
    """A run that takes longer than the key's window commits all the same, instead of running again and again."""
    with playing(make_stage) as play, play.telling():
        play.enqueue(key="k")
        item = play.take("1")
        play.perform("1", item, ACTS["succeeds"])
        for _ in range(5):
            play.wait(31)
            play.extend("1", item)
        play.settle("1", item)
        play.finish()
    assert len(play.world.starts) == 1


def test_a_death_that_was_recorded_is_carried_out_with_its_error():
    """The worker dies between the record and the letter; the letter has the last error all the same (C13)."""
    with playing(make_stage) as play, play.telling():
        tale = play.enqueue()
        item = play.take("1")
        play.perform("1", item, ACTS["fails for good"])
        play.settle("1", item, crash=1)
        play.finish()
        assert [state.errors for state in tale.states] == [("A#1",)]


def test_the_first_ending_stands():
    """A slow worker recorded a success; whoever has the job meanwhile cannot make it a dead letter (C18)."""
    with playing(make_stage) as play, play.telling():
        play.live(["another worker ends it meanwhile"])
        play.finish()


def test_an_ending_that_was_read_is_not_withdrawn():
    """A worker whose lease ends while its verdict travels takes nothing back that another one has built on (C8)."""
    with playing(make_stage) as play, play.telling():
        tale = play.enqueue()
        item = play.take("1")
        play.perform("1", item, ACTS["succeeds"])
        source = item.job.source

        class Slow:
            async def settle(self, batch):
                await play.world.stage.sleep(33)
                assert await play.world.hands["2"].work(await play.world.hands["2"].take())
                return await source.settle(batch)

        item.job.source = Slow()
        assert not play.run(play.world.hands["1"].settle, item.conclusion)
        assert play.run(play.world.ending, tale.id).state == "succeeded"


def test_a_late_holder_commits_nothing_for_a_dead_job():
    """A job that was buried as poison meanwhile has no outcome, so its key is free for the next job (C10)."""
    with playing(make_stage) as play, play.telling():
        play.live(["its worker dies running it"] * 2, key="k")
        late = play.take("1", patience=200.0)
        play.perform("1", late, ACTS["succeeds"])
        play.wait(33)
        item = play.take("2")
        play.work("2", item, "succeeds")
        play.settle("1", late)
        play.look()
        play.enqueue(key="k")
        play.finish()
    assert [tale.ending.state for tale in play.tales] == ["dead", "succeeded"]


def test_an_interrupted_cancelling_is_finished_by_the_next():
    """Removed, but not recorded: whoever asks again is told that it is cancelled, and everybody can read it."""
    with playing(make_stage) as play, play.telling():
        tale = play.enqueue()
        play.cancel(tale, crash=2)
        play.cancel(tale)
        assert tale.cancelled
        play.finish()


def test_who_never_started_is_no_poison():
    """With crashes=1, a job that was only in the hands of a dying worker is still started by the next (C12)."""

    async def story():
        async with make_stage() as stage:
            app, queue = await stage.app(), stage.queue()

            @app.task(name="work", queue=queue, crashes=1)
            async def work() -> str:
                return "done"

            job = await work.enqueue()
            async with StepWorker(app, [queue]) as dying:
                await dying.take()
            await stage.sleep(stage.lease + 1)
            hands = await stage.step_worker(app, queue)
            assert await hands.work(await hands.take())
            assert await job.result(timeout=1) == "done"

    run_virtually(story)


def test_no_id_is_sent_again_where_nobody_notices():
    """A broker without dedup keeps two jobs of one id, so the model does not ask it for that."""
    model = machine(make_stage)()
    model.play.enqueue()
    assert model.repeatable
    stage = model.play.world.stage
    stage.features = msgspec.structs.replace(stage.features, dedup="absent")
    assert not model.repeatable
    model.play.tales.clear()  # nothing to finish
    model.teardown()


def test_a_job_that_is_given_back_too_late_is_named():
    """Whoever gives back what it never started, and has lost already, says which job that was (C19)."""
    with playing(make_stage) as play, play.telling():
        play.enqueue()
        item = play.take("1")
        play.wait(33)
        play.release("1", item)
        play.finish()
    assert play.told["job.lost"] == 1


def test_the_death_that_was_recorded_is_the_one_that_counts():
    """A first worker died before its ending was stored, a second one after: the letter has the second one's error."""
    with playing(make_stage) as play, play.telling():
        tale = play.enqueue(key="k")
        for point in (1, 2):  # settle.committed, settle.ended
            item = play.take("1", patience=200.0)
            play.perform("1", item, ACTS["fails for good"])
            play.settle("1", item, crash=point)
            play.look()
        play.finish()
        assert [state.errors for state in tale.states] == [("k#2",)]
