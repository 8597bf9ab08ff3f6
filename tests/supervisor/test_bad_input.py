"""What a user gets wrong: options, a lifespan that raises, a dependency that fails. The command as it is run."""

from __future__ import annotations

import pytest

from taskcore import App
from taskcore.cli.group import run

pytestmark = pytest.mark.timeout(120)

app = App("memory://")


@app.task
async def work() -> None:
    """Do nothing: a worker needs a task."""


BROKEN_LIFESPAN = """
from contextlib import asynccontextmanager

from taskcore import App


@asynccontextmanager
async def lifespan(app):
    raise ConnectionError("no database")
    yield


app = App("memory://", lifespan=lifespan)


@app.task
async def work() -> None: ...
"""

BROKEN_DEPENDENCY = '''
from contextlib import asynccontextmanager
from pathlib import Path

from taskcore import App, Depends, Retry

RUNS_IN = {runs_in!r}
app = App.from_config(lease=3.0, retry=Retry(attempts=2, base=0.05, jitter="none"), processes=1)


def connect() -> str:
    """Fail whenever it is asked."""
    with Path(__file__).with_name("done").open("a") as file:
        file.write("tried\\n")
    raise ConnectionError("no connection to the shop")


@app.task(name="note", runs_in=RUNS_IN)
def note(number: int, seconds: float = 0.0) -> int:
    """Run without it."""
    with Path(__file__).with_name("done").open("a") as file:
        file.write(f"ended {{number}}\\n")
    return number


@app.task(name="fail", runs_in=RUNS_IN)
def fail(connection: str = Depends(connect, scope={scope!r})) -> None: ...
'''


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--processes", "0"), "--processes: expected a whole number from 1 to 1000, or a range such as"),
        (("--processes", "3..1"), "--processes: expected a whole number from 1 to 1000, or a range such as"),
        (("--max-jobs", "0"), "--max-jobs: expected a whole number, at least 1, got 0"),
        (("--max-memory", "lots"), "--max-memory: expected bytes, at least 1, or text such as"),
        (("--health", "8080"), "--health: expected a host and a port, such as"),
        (("--queues", "mail=0"), '--queues: expected queues and numbers from 1 to 100000, such as "mail=5,default=50"'),
        (("--queues", "mail=5,mail=6"), '--queues: "mail" is named twice'),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, tuple) else "",
)
def test_an_error_names_the_option(option, says, capsys):
    """The error has the option as it was written, not the name of a setting; the exit code is that of usage."""
    place = f"{__name__}:app"
    assert run(["worker", place, *option]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "worker_processes" not in said


def test_an_address_of_another_machine(alone):
    """A health address that cannot be opened ends the command with its own reason, and blames no other worker."""
    with alone.run("--health", "192.0.2.1:8080") as command:
        assert command.end() == 2

    assert "error[TC104]: --health 192.0.2.1:8080: cannot listen there" in command.said
    assert "name an address of this machine" in command.said
    assert "a port of its own" not in command.said


def test_a_lifespan_that_raises_ends_the_supervisor(alone):
    """Processes whose lifespan raises are tried five times; the supervisor ends with the reason and their exit code."""
    (alone.directory / "shop.py").write_text(BROKEN_LIFESPAN)
    with alone.run("--processes", "2") as command:
        assert command.end(60) == 1

    assert "no database" in command.said
    assert "5 worker processes in a row ended before they were ready; the last exited with code 1" in command.said


@pytest.mark.parametrize(
    ("processes", "runs_in", "scope"),
    [((), "thread", "job"), (("--processes", "2"), "thread", "app"), ((), "process", "app")],
    ids=["alone", "supervised", "process tasks"],
)
def test_a_dependency_that_fails(project, processes, runs_in, scope):
    """Its job fails by its policy, with the error of the dependency; other jobs run, and the worker lives."""
    (project.directory / "shop.py").write_text(BROKEN_DEPENDENCY.format(runs_in=runs_in, scope=scope))
    project.send("fail", {})
    project.send("note", *({"number": number} for number in range(10)))
    with project.run("--drain", *processes) as command:
        assert command.end(60) == 0

    assert len(project.lines("tried")) == 2  # attempts
    assert len(project.lines("ended")) == 10
    assert "done: 10 succeeded · 1 retried · 1 dead" in command.said
    assert "ConnectionError: no connection to the shop" in command.said
