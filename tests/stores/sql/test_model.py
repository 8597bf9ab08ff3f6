"""Random histories on the in-memory broker with its records in a file, in real time; and the crash sweep too."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from taskcore.conformance.crash_sweep.sweep import cases
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import REAL_TIME, machine
from tests.support.redis_sweep import play_here

FOLDER = Path(tempfile.mkdtemp(prefix="taskcore-model-"))


def make_harness() -> Harness:
    """Make a harness on the shared file, in which every key has the mark of its harness."""
    return Harness.at("memory://", store=f"sqlite:///{FOLDER}/model.db", lease=0.3, margin=0.3)


TestModel = pytest.mark.timeout(240)(
    machine(
        make_harness,
        real_time=True,
        budget=settings(REAL_TIME, max_examples=8, stateful_step_count=12, derandomize=True, database=None),
    ).TestCase
)

CASES = [case for case in cases(lambda: Harness.in_memory(lease=32.0)) if case.point]

SAMPLE = [case for case in CASES if "expired" not in case.state][::30]  # a deadline is too near for a busy machine
CONCURRENT_CASES = 4  #: processes with a case each, which mostly waits for leases to end


@pytest.mark.timeout(120)
def test_crashes(tmp_path: Path) -> None:
    """Whichever process dies between two writes, the job ends once, completely, and leaves nothing behind."""
    once = partial(play_here, url="memory://", folder=tmp_path, lease=0.4, margin=0.4)
    with ProcessPoolExecutor(CONCURRENT_CASES, mp_context=multiprocessing.get_context("spawn")) as processes:
        problems = [problem for problem in processes.map(once, SAMPLE) if problem]
    assert problems == []
