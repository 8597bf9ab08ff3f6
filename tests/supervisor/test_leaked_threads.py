"""Functions that never return take threads for ever: a worker with too many of them is replaced, or ends."""

from __future__ import annotations

import pytest

from taskcore.supervisor.leaked_threads import LOOKS_IN_A_ROW, LeakedThreads
from tests.support.command import eventually, is_running

pytestmark = pytest.mark.timeout(120)

HANGING = '''
import threading
from pathlib import Path

from taskcore import App, Retry

app = App.from_config(lease=2.0, threads=4, grace=10.0)


@app.task(name="note", timeout=0.1, retry=Retry(attempts=1))
def hang(number: int, seconds: float = 0.0) -> None:
    """Run past the time limit, for so many seconds."""
    with Path(__file__).with_name("done").open("a") as file:
        file.write(f"began {number}\\n")
    threading.Event().wait(seconds)
'''


def test_a_function_that_returns_late_is_no_leak():
    """What counts is the smallest number of the last looks, so that a short overrun replaces no process."""
    leaked = LeakedThreads()
    assert [leaked.note(number) for number in [5] * LOOKS_IN_A_ROW] == [*[0] * (LOOKS_IN_A_ROW - 1), 5]
    assert leaked.note(2) == 2
    assert leaked.note(9) == 2


def test_a_leaking_process_is_replaced(project):
    """A supervisor says why, has a new process ready first, and the leaking one ends in spite of its threads."""
    (project.directory / "shop.py").write_text(HANGING)
    with project.run("--processes", "1", "--max-leaked-threads", "1") as command:
        [pid] = command.wait_ready(1)
        project.send("note", {"number": 1, "seconds": 600.0}, {"number": 2, "seconds": 600.0})
        eventually(lambda: len(command.pids()) == 2, what="the next process")
        eventually(lambda: not is_running(pid), what="the end of the leaking process")
        command.signal()
        assert command.end() == 0

    assert (
        f"process {pid} is replaced: 2 of its threads run functions whose jobs have ended, --max-leaked-threads is 1"
        in command.said
    )


def test_a_leaking_worker_that_is_alone_ends(project):
    """Without a supervisor of its own the command ends with an exit code for this, and says why."""
    (project.directory / "shop.py").write_text(HANGING)
    with project.run(TASKCORE_MAX_LEAKED_THREADS="0") as command:
        command.wait_for("ready in")
        project.send("note", {"number": 1, "seconds": 600.0})
        assert command.end(30) == 6

    assert "this worker stops: 1 of its threads run functions whose jobs have ended" in command.said
    assert "done: 0 succeeded · 1 dead" in command.said
