"""Random stories on the in-memory broker with its records in a file, in real time; and the crash sweep likewise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from taskcore.testing.model.machine import REAL_TIME, machine
from taskcore.testing.stage import Stage
from taskcore.testing.sweep.plan import Case, cases, run

FOLDER = Path(tempfile.mkdtemp(prefix="taskcore-model-"))


def make_stage() -> Stage:
    """All stories share a file: every key has the mark of its stage."""
    return Stage.at("memory://", store=f"sqlite:///{FOLDER}/model.db", lease=0.3, margin=0.3)


TestModel = pytest.mark.timeout(240)(
    machine(
        make_stage,
        real_time=True,
        budget=settings(REAL_TIME, max_examples=8, stateful_step_count=12, derandomize=True, database=None),
    ).TestCase
)

CASES = [case for case in cases(lambda: Stage.in_memory(lease=32.0)) if case.point]

SAMPLE = [case for case in CASES if "expired" not in case.state][::30]  # a deadline is too near for a busy machine


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_crash(case: Case, tmp_path: Path) -> None:
    """Whoever dies between two writes to the file, the job ends once, completely, and leaves nothing behind."""
    run(case, lambda: Stage.at("memory://", store=f"sqlite:///{tmp_path}/r.db", lease=0.4, margin=0.4), real_time=True)
