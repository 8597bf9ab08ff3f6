"""The run that kills workers with schedules: its verdict, and one short run with real processes on a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.schedule_kills.__main__ import main
from benchmarks.schedule_kills.judge import Start, Verdict, judge
from taskcore.faults import RedisServer
from tests.support import real

ROOT = Path(__file__).parents[2]
PREVIEW = {"s": [1_000, 2_000, 3_000, 4_000]}


def verdict(*starts: Start, killed: dict[int, float] | None = None, passed: int = 0) -> Verdict:
    """Judge starts of a schedule that counts since 1.0, with time for instants up to 3.0."""
    return judge(PREVIEW, {"s": (1_000, passed)}, starts, killed or {}, until=3.0)


def start(at: int, *, late: float = 0.1, process: int = 1, job: str = "") -> Start:
    """Make a start."""
    return Start("s", at, at / 1000 + late, process, job or f"job-{at}")


def test_a_clean_run() -> None:
    """Each instant of the preview is one job; those before the first worker and of the last seconds do not count."""
    found = verdict(start(2_000), start(3_000, late=0.5), start(4_000))
    assert found.is_clean
    assert (found.expected, found.again, found.percentile(0.99)) == (2, 0, 0.5)


def test_what_is_not_clean() -> None:
    """A missing instant, one that the preview does not have, and one that the library passed over are found."""
    assert verdict(start(2_000)).missing == [("s", 3_000)]
    assert verdict(start(2_000), start(2_500), start(3_000)).strange == [("s", 2_500)]
    assert not verdict(start(2_000), start(3_000), passed=1).is_clean
    assert not verdict().is_clean


def test_doubled_instants() -> None:
    """Two jobs of an instant are doubled; a job that begins again is, too, unless its worker was killed then."""
    rest = start(3_000)
    assert verdict(start(2_000), start(2_000, job="other"), rest).doubled == [("s", 2_000)]
    assert verdict(start(2_000), start(2_000, late=5.0, process=2), rest).doubled == [("s", 2_000)]
    explained = verdict(start(2_000), start(2_000, late=5.0, process=2), rest, killed={1: 2.3})
    assert explained.is_clean
    assert explained.again == 1
    assert not verdict(start(2_000), start(2_000, late=5.0, process=2), rest, killed={1: 1.0}).is_clean


@pytest.mark.timeout(90)
def test_a_short_run() -> None:
    """Workers of the example application are killed in turns: each instant of the preview is one job."""
    real.require(RedisServer)
    command = [sys.executable, "-m", "benchmarks.schedule_kills", "redis", "--minutes", "0.1", "--json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads(answer.stdout)
    assert found["expected"] > 50
    assert len(found["late"]) > 50


def test_mistakes_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A broker that no process can share, one without a store, and a run of no length are refused with the reason."""
    for arguments, words in {
        ("memory://",): "lives in one process",
        ("rabbitmq",): "--store sqlite",
        ("redis", "--minutes", "0"): "--minutes 0",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
