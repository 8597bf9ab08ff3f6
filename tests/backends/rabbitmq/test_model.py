"""Random histories of clients, workers, strangers, crashes and cuts, on a real node, in real time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
from hypothesis import Phase

from taskcore.conformance.model.rules import open_rules
from tests.support.records import store_url
from tests.support.redis_model import run_model

#: Always the same histories, by kind of queue; other seeds are for long runs.
SEEDS = [("quorum", number) for number in range(10)] + [("classic", number) for number in range(3)]
EXAMPLES, STEPS = 4, 15
LEASE, MARGIN = 0.5, 0.3  #: seconds


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_steps_keep_every_promise(node, tmp_path):
    """Stories of 15 steps each, 40 on quorum queues and 12 on classic ones, side by side, keep every promise."""
    if store_url(tmp_path) is None:
        pytest.skip("no store is installed here that a process can have for itself")
    # A failure is reported as it was; shrinking it in real time would take an hour.
    once = partial(run_model, examples=EXAMPLES, steps=STEPS, lease=LEASE, margin=MARGIN, phases=(Phase.generate,))
    with ProcessPoolExecutor(len(SEEDS), mp_context=multiprocessing.get_context("spawn")) as processes:
        telling = [
            processes.submit(
                once, number, url=f"{node.url}?min_queue_age=0.1&queue_type={kind}",
                store=f"sqlite:///{tmp_path / f'records-{kind}-{number}.db'}",
            )
            for kind, number in SEEDS
        ]  # fmt: skip
        problems = [problem for one in telling if (problem := one.result())]
    assert not problems, "\n".join(problems)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kind", "life"),
    [("quorum", life) for life in ("its worker dies running it", "it is given back", "its lease ends", "fails")]
    + [("classic", "its worker dies running it")],
)
def test_repeated_runs_keep_every_limit(make_harness, kind, life):
    """The same life three times: limits hold, counts grow, the job ends."""
    options = f"min_queue_age=0.1&queue_type={kind}"
    with (
        open_rules(lambda: make_harness(options, lease=LEASE, margin=MARGIN), real_time=True) as play,
        play.explaining(),
    ):
        play.live([life] * 3)
        play.finish()
