"""A process that a test freezes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskcore.faults.child import STOPS_WITHIN, Child

#: Starts processes all the time: subprocess starts them by vfork, in which a process cannot stop.
BUSY_PARENT = """
import subprocess, sys, threading
def start_some():
    while True:
        subprocess.run([sys.executable, "-IS", "-c", "print('.', flush=True)"])
for _ in range(3):
    threading.Thread(target=start_some).start()
"""


@pytest.fixture
def busy_parent(tmp_path: Path) -> Iterator[Child]:
    """Start a process that starts others all the time."""
    child = Child(
        [sys.executable, "-c", BUSY_PARENT], output=tmp_path / "output", environment=dict(os.environ), folder=tmp_path
    )
    child.start()
    yield child
    child.kill()


def test_a_process_is_frozen_while_it_starts_another_one(busy_parent: Child, tmp_path: Path) -> None:
    """Freezing returns in time whatever the process is doing, and nothing of its group goes on."""
    output = tmp_path / "output"
    while not output.exists() or not output.stat().st_size:
        time.sleep(0.01)
    for _ in range(8):
        began = time.monotonic()
        busy_parent.pause()
        assert time.monotonic() - began < STOPS_WITHIN + 5.0
        written = output.stat().st_size
        time.sleep(0.1)
        assert output.stat().st_size == written
        busy_parent.resume()
        time.sleep(0.05)
