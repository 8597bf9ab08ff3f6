"""Several worker processes: they start, die, are replaced, and end, in real processes and by real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command import WorkerCommand, eventually, is_running
from tests.support.shell import environment

pytestmark = pytest.mark.timeout(120)

TRIES = 3  #: of a time, on a machine that other programs use

BROKEN = """
import os
import sys

from taskcore import App

app = App("memory://")


@app.task
async def work() -> None: ...


if "--supervised" in sys.argv:
    os._exit(9)
"""


def test_each_process_takes_jobs(project):
    """Two processes share the jobs of one queue."""
    with project.run("--processes", "2", "-c", "1") as command:
        pids = command.wait_ready(2)
        project.send("note", *({"number": number, "seconds": 0.2} for number in range(10)))
        eventually(lambda: len(project.lines("ended")) == 10)
        command.signal()
        assert command.end() == 0

    assert {int(line.split()[2]) for line in project.lines("ended")} == set(pids)
    assert "done: 10 succeeded" in command.said


def test_a_killed_process_is_replaced_and_its_jobs_end(project):
    """After SIGKILL at work the supervisor says what killed the process, and the job ends in another one."""
    with project.run("--processes", "2") as command:
        command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 1.0})
        eventually(lambda: project.lines("began"))
        killed = int(project.lines("began")[0].split()[2])
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: project.lines("ended"))
        eventually(lambda: len(command.alive()) == 2, what="two processes again")

    assert (
        f"process {killed} was killed by SIGKILL (signal 9), probably by the kernel for lack of memory" in command.said
    )


def test_the_processes_end_when_the_supervisor_is_killed(project):
    """After SIGKILL of the supervisor its processes finish what runs, and end by themselves."""
    with project.run("--processes", "2") as command:
        pids = command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 1.0})
        eventually(lambda: project.lines("began"))
        command.signal(signal.SIGKILL)
        eventually(lambda: not any(map(is_running, pids)), what="the end of the processes")

    assert len(project.lines("ended")) == 1


@pytest.mark.parametrize("processes", [(), ("--processes", "2"), ("--max-jobs", "9")], ids=" ".join)
def test_a_crash_at_import_ends_the_command_once(alone, processes):
    """An app that cannot be imported is reported once, in under a second more than ``import taskcore`` takes."""
    (alone.directory / "shop.py").write_text("raise RuntimeError('no such luck')\n")
    crash = [sys.executable, "-m", "taskcore", "worker", "shop:app", *processes]
    for _ in range(TRIES):
        plain, slowness, _, _ = run_timed(alone.directory, sys.executable, "-c", "import taskcore")
        took, _, code, said = run_timed(alone.directory, *crash)
        assert code == 3
        assert said.count("no such luck") == 2, said  # the error, and the line of the program
        assert said.startswith("error[TC101]")
        if took - plain < 1.0 * slowness:
            return
    pytest.fail(
        f"it took {took:.2f} s, and a plain import {plain:.2f} s on a machine that is {slowness:.1f} times slow"
    )


def test_a_crash_at_import_waits_for_a_change_with_reload(project):
    """With --reload the command says that it waits, at its start, too, and begins when the code is mended."""
    pytest.importorskip("watchfiles")
    shop = project.directory / "shop.py"
    text = shop.read_text()
    shop.write_text("raise RuntimeError('half written')\n")
    with project.run("--reload") as command:
        command.wait_for("waiting for a change of the code")
        assert command.said.count("error[TC101]") == 1
        time.sleep(1.0)  # until the directory is watched
        shop.write_text(text)
        command.wait_ready(1)
        command.signal()
        assert command.end() == 0


def test_a_misnamed_app_ends_the_command_with_reload(alone):
    """A module that does not exist is a mistake in the command, which no change of the code mends."""
    pytest.importorskip("watchfiles")
    with WorkerCommand.running(alone.directory, "shup:app", "--reload") as command:
        assert command.end() == 3

    assert 'did you mean "shop"?' in command.said


def run_timed(directory: Path, *command: str) -> tuple[float, float, int, str]:
    """Run a command; return the seconds it took, how many times slower the machine was, its exit code, its words."""
    before, began = os.times(), time.monotonic()
    ended = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True, check=False)
    took, after = time.monotonic() - began, os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return took, max(took / max(worked, 0.01), 1.0), ended.returncode, ended.stderr


def test_five_failed_starts_end_the_supervisor(alone):
    """A process that always dies at its start is tried five times, and then the supervisor ends with the reason."""
    (alone.directory / "shop.py").write_text(BROKEN)
    with alone.run("--processes", "2") as command:
        assert command.end() == 9

    assert command.said.count("exited with code 9; it ran for") == 4
    assert "5 worker processes in a row ended before they were ready; the last exited with code 9" in command.said


def test_an_unreachable_broker_ends_the_supervisor_once(alone):
    """A broker that cannot be reached at the start is one error, with the exit code of one worker."""
    with alone.run("--processes", "2", TASKCORE_URL="redis://127.0.0.1:1/0") as command:
        assert command.end() == 4

    assert command.said.count("error[TC201]") == 1


# ── stopping ──


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_jobs_finish(project, number):
    """The supervisor passes the first signal on once: running jobs finish."""
    with project.run("--processes", "2") as command:
        pids = command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 1.0})
        eventually(lambda: project.lines("began"))
        command.signal(number)
        assert command.end() == 0
        assert not any(map(is_running, pids))

    assert len(project.lines("ended")) == 1


def test_a_signal_to_the_whole_group_counts_once(project):
    """Ctrl-C in a terminal reaches the supervisor and its processes, and running jobs still finish."""
    with project.run("--processes", "2") as command:
        command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 1.5})
        eventually(lambda: project.lines("began"))
        command.signal_group(signal.SIGINT)
        assert command.end() == 0

    assert len(project.lines("ended")) == 1
    assert "Traceback" not in command.said


def test_ctrl_c_while_processes_start(alone):
    """Processes that still import their code end without a traceback, and the command with exit code 0."""
    with alone.run("--processes", "4") as command:
        command.wait_for("ready in")
        time.sleep(0.1)
        command.signal_group(signal.SIGINT)
        assert command.end() == 0

    assert len(command.pids()) < 4
    assert "Traceback" not in command.said


def test_the_second_signal_interrupts(project):
    """The second Ctrl-C gives running jobs back at once, however long their grace is."""
    with project.run("--processes", "2", "--grace", "60s") as command:
        command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 60.0})
        eventually(lambda: project.lines("began"))
        command.signal_group(signal.SIGINT)
        command.wait_for("stopping; no new job starts")
        time.sleep(0.3)
        command.signal_group(signal.SIGINT)
        assert command.end(15) == 0

    assert not project.lines("ended")
    assert "1 released" in command.said


def test_the_end_of_the_grace_interrupts(project):
    """One signal is enough: after the grace running jobs are given back."""
    with project.run("--processes", "2", "--grace", "0.5s") as command:
        command.wait_ready(2)
        project.send("note", {"number": 1, "seconds": 60.0})
        eventually(lambda: project.lines("began"))
        command.signal()
        assert command.end(15) == 0

    assert "1 released" in command.said


def test_the_third_signal_kills(project):
    """Whatever a job does, three signals end everything at once."""
    with project.run("--processes", "2", "--grace", "60s") as command:
        pids = command.wait_ready(2)
        project.send("block", {"seconds": 30.0})
        eventually(lambda: project.lines("began"))
        for _ in range(3):
            command.signal()
            time.sleep(0.3)
        assert command.end(10) == 130
        assert not any(map(is_running, pids))


def test_a_process_that_is_told_to_end_by_hand_is_replaced(alone):
    """SIGTERM to one process ends that one gently, and another takes its place."""
    with alone.run("--processes", "1") as command:
        [pid] = command.wait_ready(1)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: len(command.pids()) == 2, what="the next process")

    assert f"process {pid} was stopped from outside" in command.said


def test_json_lines_stay_clean(alone):
    """With --log-format json every line of the supervisor and its processes is an object."""
    with alone.run("--processes", "2", "--log-format", "json") as command:
        command.wait_ready(2)
        command.signal()
        assert command.end() == 0

    assert all(line.startswith("{") and line.endswith("}") for line in command.said.splitlines()), command.said
