"""Signals, in real processes: the first asks, the second insists, the third ends (F08, F09)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import taskcore

PROGRAM = Path(__file__).parents[1] / "support" / "signal_program.py"


class Program:
    """A running program: read what it says, send it signals, wait for its end."""

    def __init__(self, loop: str, kind: str, grace: float) -> None:
        where = str(Path(taskcore.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), loop, kind, str(grace)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": where},
        )

    def read(self) -> str:
        """Read the next line."""
        return self.process.stdout.readline().strip()

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)
        time.sleep(0.1)  # two signals at once would be one

    def end(self) -> tuple[int, list[str], float]:
        """Wait for the end; return the exit code, the remaining output and the seconds."""
        began = time.monotonic()
        rest, _ = self.process.communicate(timeout=15)
        return self.process.returncode, rest.split("\n")[:-1], time.monotonic() - began


@pytest.fixture(params=["asyncio", "trio"])
def start(request):
    """Start a program on either loop; it has started its first job when this returns."""
    started = []

    def run(kind: str, *, grace: float) -> Program:
        program = Program(request.param, kind, grace)
        started.append(program)
        assert program.read() == "started"
        return program

    yield run
    for program in started:
        program.process.kill()
        program.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_jobs_finish(start, number):
    """The running job finishes, the waiting one never starts, and the program goes on behind run_worker."""
    program = start("short", grace=30.0)
    program.kill(number)

    assert program.end()[:2] == (0, ["finished", "ready 1 leased 0"])


def test_the_second_signal_interrupts(start):
    """The running job is interrupted and given back."""
    program = start("long", grace=60.0)
    program.kill()
    program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (0, ["interrupted", "ready 2 leased 0"])
    assert seconds < 5


def test_the_end_of_the_grace_interrupts(start):
    """One signal is enough to end the program, after the grace at the latest."""
    program = start("long", grace=0.3)
    program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (0, ["interrupted", "ready 2 leased 0"])
    assert seconds < 5


def test_the_third_signal_ends_the_process(start):
    """Whatever a job does, three signals end the program."""
    program = start("stubborn", grace=60.0)
    for _ in range(3):
        program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (130, [])
    assert seconds < 5


def test_the_third_signal_ends_a_blocked_loop(start):
    """The signals count although the loop that would receive them does not turn."""
    program = start("blocked", grace=60.0)
    for _ in range(3):
        program.kill(signal.SIGINT)
    code, said, seconds = program.end()

    assert (code, said) == (130, [])
    assert seconds < 5


def test_one_signal_ends_a_blocked_loop(start):
    """The grace and the time to clean up are counted although the loop does not turn."""
    program = start("blocked", grace=0.3)
    program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (1, [])
    assert 1 < seconds < 6


def test_no_signal_is_lost_while_the_loop_is_blocked(start):
    """A signal stops the worker although calls of threads fill the pipe that wakes the blocked loop."""
    program = start("flooded", grace=60.0)
    program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (0, ["finished", "ready 1 leased 0"])
    assert seconds < 5


def test_a_blocked_thread_does_not_hold_up_the_worker(start):
    """A thread that cannot be interrupted is left behind: its job is given back, and the worker has ended."""
    program = start("thread", grace=60.0)
    program.kill()
    program.kill()

    assert program.read() == "ready 2 leased 0"


def test_a_killed_process_leaves_nothing_behind(start):
    """SIGKILL needs no co-operation."""
    program = start("long", grace=60.0)
    program.kill(signal.SIGKILL)

    assert program.end()[:2] == (-signal.SIGKILL, [])


def test_a_blocked_thread_does_not_hold_up_the_end(start):
    """A program ends after a second signal, though a thread that cannot be interrupted still works."""
    program = start("thread", grace=60.0)
    program.kill()
    program.kill()
    code, said, seconds = program.end()

    assert (code, said) == (0, ["ready 2 leased 0"])
    assert seconds < 5
