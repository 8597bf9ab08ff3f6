"""The benchmarks of the repository are programs, not a package that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    collect_ignore_glob = ["*"]  # a source distribution has none
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "peers")]


@pytest.fixture
def anyio_backend() -> str:
    """Measure on the loop that programs use."""
    return "asyncio"
