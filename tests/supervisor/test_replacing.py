"""Processes that are replaced, added and taken away under load: no job is lost, doubled or interrupted."""

from __future__ import annotations

import collections
import re
import time

import pytest

from tests.support.command import eventually, is_running

pytestmark = pytest.mark.timeout(180)

#: `taskcore` whose supervisor takes a process away after two quiet looks instead of ten.
HASTY = """
import sys

from taskcore.cli.main import main
from taskcore.supervisor import autoscale

autoscale.QUIET_LOOKS = 2
main()
"""


GROWS = """

KEPT = []
"""


def _numbers(lines: list[str]) -> collections.Counter[int]:
    return collections.Counter(int(line.split()[1]) for line in lines)


def test_recycling_under_load_loses_and_doubles_nothing(project):
    """With --max-jobs every job runs once, in several processes one after the other, and none of them is killed."""
    jobs = 0
    with project.run("--processes", "2", "--max-jobs", "50", "-c", "5") as command:
        command.wait_ready(2)
        while command.said.count("is replaced: ") < 3:  # a busy machine takes seconds to start a process
            assert jobs < 20_000, command.said
            project.send("note", *({"number": jobs + number, "seconds": 0.05} for number in range(100)))
            jobs += 100
            time.sleep(0.3)
        eventually(lambda: len(project.lines("ended")) >= jobs, 90, what="all jobs")
        command.signal()
        assert command.end() == 0

    assert _numbers(project.lines("began")) == _numbers(project.lines("ended"))
    assert set(_numbers(project.lines("ended")).values()) == {1}
    assert len({line.split()[2] for line in project.lines("ended")}) > 2
    assert "--max-jobs is 50" in command.said
    assert "was killed" not in command.said


def test_a_replaced_process_finishes_its_jobs(project):
    """A retired process has no time limit: a job that is longer than the grace ends in it while another works."""
    with project.run("--max-jobs", "1", "--grace", "0.2s", "-c", "2") as command:
        [first] = command.wait_ready(1)
        project.send("note", {"number": 1, "seconds": 6.0}, {"number": 2})
        eventually(lambda: f"process {first} is replaced" in command.said, what="a replacement")
        project.send("note", {"number": 3})
        eventually(lambda: any(line.startswith("ended 3 ") for line in project.lines("ended")), 5.5, what="job 3")
        eventually(lambda: len(project.lines("ended")) == 3)

    assert f"ended 1 {first}" in project.lines("ended")
    assert f"ended 3 {first}" not in project.lines("ended")


def test_a_process_that_grows_is_replaced(project):
    """With --max-memory a process that a job lets grow is replaced; one that has run no job stays."""
    shop = project.directory / "shop.py"
    shop.write_text(
        shop.read_text().replace("    await anyio.sleep(seconds)", "    KEPT.append(b'x' * 200_000_000)") + GROWS
    )
    with project.run("--max-memory", "180MiB") as command:
        [first] = command.wait_ready(1)
        time.sleep(1.0)
        assert command.pids() == [first]
        project.send("note", {"number": 1})
        eventually(lambda: len(command.pids()) == 2, what="a replacement")
        eventually(lambda: not is_running(first), what="the end of the one that grew")
        time.sleep(1.0)
        assert len(command.pids()) == 2

    assert re.search(rf"process {first} is replaced: it occupies \d+MiB, --max-memory is 180MiB", command.said)


def test_a_size_that_every_process_has_is_refused(alone):
    """With less than what a process needs without a job each would be replaced at once: the command says so."""
    with alone.run("--max-memory", "5MiB") as command:
        assert command.end() == 2

    assert "error[TC104]: --max-memory 5MiB: each process would be replaced at once" in command.said
    assert "occupies" in command.said


def test_the_number_follows_the_load(project):
    """1..3 processes become three while jobs wait, and one again when nothing is left; every job runs once."""
    program = project.directory / "hasty.py"
    program.write_text(HASTY)
    with project.run("--processes", "1..3", "-c", "2", program=str(program)) as command:
        command.wait_ready(1)
        assert len(command.pids()) == 1
        project.send("note", *({"number": number, "seconds": 0.5} for number in range(60)))
        eventually(lambda: len(command.alive()) == 3, what="three processes")
        eventually(lambda: len(project.lines("ended")) == 60, 60)
        eventually(lambda: len(command.alive()) == 1, what="one process")
        time.sleep(2.0)
        assert len(command.alive()) == 1
        command.signal()
        assert command.end() == 0

    assert set(_numbers(project.lines("began")).values()) == {1}
    assert "is not needed any more" in command.said


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["alone", "supervised"])
def test_drain_ends_when_the_queues_are_empty(project, processes):
    """With --drain the command does what there is, and ends by itself with exit code 0."""
    project.send("note", *({"number": number, "seconds": 0.1} for number in range(20)))
    with project.run("--drain", *processes) as command:
        assert command.end(60) == 0

    assert _numbers(project.lines("ended")) == dict.fromkeys(range(20), 1)
    assert "done: 20 succeeded" in command.said


def test_reload_picks_up_a_change(project):
    """With --reload new code runs after a file has changed; code that fails is waited over."""
    pytest.importorskip("watchfiles")
    shop = project.directory / "shop.py"
    text = shop.read_text()
    with project.run("--reload") as command:
        command.wait_ready(1)
        project.send("note", {"number": 1})
        eventually(lambda: len(project.lines("ended")) == 1)
        shop.write_text("raise RuntimeError('half written')\n")
        command.wait_for("waiting for a change of the code")
        shop.write_text(text.replace('f"ended {number}', 'f"ended new {number}'))
        command.wait_ready(1)
        project.send("note", {"number": 2})
        eventually(lambda: project.lines("ended new 2"))

    assert "half written" in command.said


def test_reload_waits_for_no_change_while_the_broker_is_away(project):
    """With --reload a process that finds no broker is started again, without a change of the code."""
    pytest.importorskip("watchfiles")
    shop, url = project.directory / "shop.py", project.directory / "url"
    url.write_text(project.url)
    text = shop.read_text().replace("App.from_config(", 'App(Path(__file__).with_name("url").read_text(), ')
    shop.write_text(text)
    with project.run("--reload") as command:
        command.wait_ready(1)
        url.write_text("redis://127.0.0.1:1/0")
        shop.write_text(text + "# changed\n")
        command.wait_for("exited with code 4")
        url.write_text(project.url)
        project.send("note", {"number": 1})
        eventually(lambda: project.lines("ended"), what="a process that works again")

    assert "waiting for a change" not in command.said


def test_reload_needs_watchfiles(alone):
    """Without the extra the error has the line that installs it."""
    (alone.directory / "watchfiles.py").write_text("raise ImportError\n")
    with alone.run("--reload") as command:
        assert command.end() == 2

    assert 'pip install "taskcore-framework[reload]"' in command.said


def test_included_modules_declare_tasks(alone):
    """--include imports modules beside the app's; a pattern imports all modules of a package."""
    package = alone.directory / "more"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("mail", "report"):
        (package / f"{name}.py").write_text(
            f"from shop import app\n\n@app.task(name='{name}')\nasync def work(): ...\n"
        )
    with alone.run("--include", "more.*", "--drain") as command:
        assert command.end() == 0
    assert "shop:app · 4 tasks" in command.said
    with alone.run("--drain", TASKCORE_INCLUDE="more.mail") as command:
        assert command.end() == 0
    assert "shop:app · 3 tasks" in command.said
    with alone.run("--include", "more.none") as command:
        assert command.end() == 3
    assert 'cannot include "more.none"' in command.said
