"""Random stories of clients, workers, strangers, crashes and cuts, in memory, under a virtual clock."""

from __future__ import annotations

import pytest

from taskcore.testing.model import machine
from taskcore.testing.model_play import playing
from taskcore.testing.model_tale import Broken
from taskcore.testing.stage import Stage


def make_stage():
    """A lease of 32 seconds makes every time of the model a whole number, so that times can be compared exactly."""
    return Stage.in_memory(lease=32.0)


TestModel = machine(make_stage).TestCase


def test_a_broken_promise_is_told_as_a_story():
    """Whoever reads a failure reads what happened, and which clause it breaks."""
    with playing(make_stage) as play, pytest.raises(Broken) as caught, play.telling():
        tale = play.enqueue()
        item = play.take("1")
        play.work("1", item, "succeeds")
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
