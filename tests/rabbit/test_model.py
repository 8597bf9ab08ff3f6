"""Random stories of clients, workers, strangers, crashes and cuts, on a real node, in real time."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from taskcore.testing.model.machine import REAL_TIME, machine
from taskcore.testing.model.play import playing

EXAMPLES = settings(  # what fails here is told as it was; shrinking it in real time would take an hour
    REAL_TIME, max_examples=10, stateful_step_count=12, derandomize=True, database=None, phases=(Phase.generate,)
)


@pytest.mark.timeout(180)
def test_stories(make_stage):
    """Whatever happens to whom in which order, every promise is kept."""
    machine(lambda: make_stage(lease=0.5, margin=0.3), real_time=True, budget=EXAMPLES).TestCase("runTest").runTest()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fate", ["its worker dies running it", "it is given back", "its lease ends", "fails"])
def test_lives(make_stage, fate):
    """The same fate three times: limits hold, counts grow, the job ends."""
    with playing(lambda: make_stage(lease=0.5, margin=0.3), real_time=True) as play, play.telling():
        play.live([fate] * 3)
        play.finish()
