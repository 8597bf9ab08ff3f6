"""The lifespan of an app that `taskcore worker` runs: its error ends the program at once, with an exit code."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

PROGRAM = """
from contextlib import asynccontextmanager
from taskcore import App

@asynccontextmanager
async def lifespan(app):
    raise {error}
    yield

app = App("memory://", lifespan=lifespan)

@app.task
async def work() -> None: ...
"""


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        ('ConnectionError("no database")', 1, "ConnectionError: no database"),
        ("SystemExit(7)", 7, ""),
    ],
)
def test_an_error_of_the_lifespan_ends_the_program(tmp_path, error, code, told):
    """The worker says what was wrong, never that it is ready, and exits with 1, or as the lifespan says."""
    (tmp_path / "shop.py").write_text(PROGRAM.format(error=error))
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "taskcore", "worker", "shop:app"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert told in ran.stderr
    assert "ready in" not in ran.stderr
    assert time.monotonic() - began < 30.0
