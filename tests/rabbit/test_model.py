"""Random stories of clients, workers, strangers, crashes and cuts, on a real node, in real time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
from hypothesis import Phase
from records import store_url
from redis_model import tell

from taskcore.testing.model.play import playing

SEEDS = range(10)  #: always the same stories; other seeds are for long runs
EXAMPLES, STEPS = 4, 15
LEASE, MARGIN = 0.5, 0.3  #: seconds


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stories(node, tmp_path):
    """40 stories of 15 steps each, in ten processes side by side, keep every promise."""
    if store_url(tmp_path) is None:
        pytest.skip("no store is installed here that a process can have for itself")
    # What fails here is told as it was; shrinking it in real time would take an hour.
    once = partial(
        tell, url=f"{node.url}?settle=0.1", examples=EXAMPLES, steps=STEPS, lease=LEASE, margin=MARGIN,
        phases=(Phase.generate,),
    )  # fmt: skip
    stores = [f"sqlite:///{tmp_path / f'records-{number}.db'}" for number in SEEDS]
    with ProcessPoolExecutor(len(SEEDS), mp_context=multiprocessing.get_context("spawn")) as processes:
        telling = [processes.submit(once, number, store=store) for number, store in zip(SEEDS, stores, strict=True)]
        problems = [problem for one in telling if (problem := one.result())]
    assert not problems, "\n".join(problems)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fate", ["its worker dies running it", "it is given back", "its lease ends", "fails"])
def test_lives(make_stage, fate):
    """The same fate three times: limits hold, counts grow, the job ends."""
    with playing(lambda: make_stage(lease=LEASE, margin=MARGIN), real_time=True) as play, play.telling():
        play.live([fate] * 3)
        play.finish()
