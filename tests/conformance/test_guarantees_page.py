"""docs/guarantees.md says what the suite proves, no more and no less."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from taskcore.conformance import CLAUSES, NOT_PROMISED, all_checks
from taskcore.toolkit.failpoints import FAILPOINTS

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("a source distribution has no documentation", allow_module_level=True)
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_the_page_is_as_the_suite_says() -> None:
    """Clauses, checks and the table of brokers are those of the code; `scripts/docs-write` writes them."""
    script = runpy.run_path(str(ROOT / "scripts" / "docs_write.py"))
    assert script["guarantees_page"]() == PAGE


def test_every_clause_names_its_checks() -> None:
    """Read as a reader does: under each clause stand the checks that prove it, and no others."""
    for number in CLAUSES:
        part = re.search(rf"^### {number} .*?(?=^### |^<!-- )", PAGE, re.DOTALL | re.MULTILINE)
        assert part is not None, f"{number} is not on the page"
        named = re.findall(r"^- `(\w+)`", part[0], re.MULTILINE)
        assert named == [check.name for check in all_checks() if number in check.clauses]
        assert bool(named) != (number in NOT_PROMISED), f"{number} has no check"


def test_every_check_names_a_clause() -> None:
    """A check that proves nothing is not a check."""
    assert all(check.clauses and set(check.clauses) <= set(CLAUSES) for check in all_checks())


def test_every_crash_point_has_its_step() -> None:
    """The table of steps says between which writes each crash point lies."""
    steps = PAGE[PAGE.index("| step |") : PAGE.index("A crash point is")]
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", steps)) == set(FAILPOINTS)
