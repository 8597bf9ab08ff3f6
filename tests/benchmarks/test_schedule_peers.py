"""The comparison with other schedulers: how it counts, and what its command line refuses."""

from __future__ import annotations

import pytest

from benchmarks.schedule_peers.__main__ import main
from benchmarks.schedule_peers.verdict import judge


def test_counting() -> None:
    """A tick without a start in its minute is lost, a second start is doubled, and a hair early is not early."""
    lines = [("a", 60.2), ("a", 75.0), ("b", 59.9), ("a", 121.5), ("b", 300.0)]
    found = judge(lines, ["a", "b"], range(1, 3))
    assert (found.due, found.lost, found.doubled) == (4, 1, 1)
    assert found.late == pytest.approx([0.0, 0.2, 1.5])
    assert found.percentile(0.99) == pytest.approx(1.5)


def test_mistakes_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown contender and a run without a minute are refused with the reason."""
    for arguments, words in {("--only", "cron"): "there is no cron", ("--minutes", "0"): "at least 1"}.items():
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
