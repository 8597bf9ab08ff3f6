"""The sweep on both databases: processes really end at their crash points.

Which points there are is found in memory; a sample of the cases, spread evenly, is played with real processes. The
statements of the backends have no crash points of their own: each is one transaction. PostgreSQL plays each point once;
``TASKCORE_SQL_SWEEP=all`` plays each operation at each point there, too.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from taskcore.conformance.crash_sweep.sweep import cases
from taskcore.conformance.harness import Harness
from tests.support.redis_sweep import play

LEASE, MARGIN = 0.6, 0.4  #: seconds
CONCURRENT_CASES = 10  #: processes with a case each, which mostly waits for leases to end

#: Each point of each operation once, in a state that is quickly reached: the points are the same in all of them.
QUICK_STATES = {"fresh", "keyed", "delayed", "retried", "unknown", "claimed", "published", "buried", "poisonous"}
DEADLY = [case for case in cases(lambda: Harness.in_memory(lease=32.0)) if case.point]
SAMPLE = list({(one.operation, one.point): one for one in DEADLY if one.state in QUICK_STATES}.values())
POINTS = list({one.point: one for one in SAMPLE}.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_that_die(url: str, tmp_path: Path):
    """Whatever process dies wherever, the job ends once, completely, and leaves nothing behind."""
    once = partial(play, url=url, folder=tmp_path, lease=LEASE, margin=MARGIN)
    with ProcessPoolExecutor(CONCURRENT_CASES, mp_context=multiprocessing.get_context("spawn")) as processes:
        is_whole = url.startswith("sqlite") or os.environ.get("TASKCORE_SQL_SWEEP") == "all"
        problems = list(processes.map(once, SAMPLE if is_whole else POINTS))
    assert [problem for problem in problems if problem] == []


def test_the_sample_has_every_point():
    """The sample passes every crash point and every operation of the plan."""
    assert {case.point for case in SAMPLE} == {case.point for case in DEADLY} == {case.point for case in POINTS}
    assert {case.operation for case in SAMPLE} == {case.operation for case in DEADLY}
