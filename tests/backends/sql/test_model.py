"""Random histories of clients, workers, strangers, crashes and cuts on both databases, in real time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest

from tests.support.redis_model import run_model

SEEDS = range(4)  #: always the same histories; other seeds are for long runs
EXAMPLES, STEPS = 4, 20
LEASE, MARGIN = 0.4, 0.25  #: seconds


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_steps_keep_every_promise(url: str):
    """16 histories of 20 steps each, in four processes side by side on one database, keep every promise."""
    once = partial(run_model, url=url, examples=EXAMPLES, steps=STEPS, lease=LEASE, margin=MARGIN)
    with ProcessPoolExecutor(len(SEEDS), mp_context=multiprocessing.get_context("spawn")) as processes:
        problems = [problem for problem in processes.map(once, SEEDS) if problem]
    assert not problems, "\n".join(problems)
