"""The longest stops: whatever jobs and broker do, a worker ends by itself within the 30 s that Kubernetes gives it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from taskcore.config import Settings
from taskcore.faults import RedisServer
from taskcore.supervisor.stopping import KILL_MARGIN
from taskcore.worker.signals import CLEANUP_TIMEOUT
from tests.support.command import WorkerCommand, eventually, is_running
from tests.support.real import serving

pytestmark = pytest.mark.timeout(180)

KUBERNETES = 30.0  #: seconds from SIGTERM to SIGKILL, its default
TO_NOTICE = 2.0  #: of these, for the signal to arrive and for the interpreter to end
LONG = pytest.mark.skipif("TASKCORE_LONG_TESTS" not in os.environ, reason="TASKCORE_LONG_TESTS=1 runs it: 30 s")

APP = '''
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from taskcore import App

DONE = Path(__file__).with_name("done")


@asynccontextmanager
async def begin(app):
    """Send the jobs that never end."""
    await app.enqueue_many([task.call() for task in KINDS["{kind}"]])
    yield
    await anyio.sleep(3600)  # it is never left, either


app = App.from_config(lifespan=begin, lease=5.0)


def leave(line):
    with DONE.open("a") as file:
        file.write(line + "\\n")


@app.task
async def insists():
    """Refuse to be interrupted."""
    leave("insists")
    with anyio.CancelScope(shield=True):
        await anyio.sleep(3600)


@app.task
def hangs():
    """Keep a thread for ever, and leave one that is no daemon."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    leave("hangs")
    time.sleep(3600)


@app.task(runs_in="process")
def counts():
    """Keep a process busy."""
    leave("counts")
    while True:
        pass


@app.task
async def blocks():
    """Block the event loop."""
    leave("blocks")
    time.sleep(3600)


KINDS = {"jobs": [insists, hangs, counts], "loop": [blocks]}
'''


class Stubborn:
    """A worker command with jobs that never end."""

    def __init__(self, directory: Path, kind: str, processes: str, options: tuple[str, ...], url: str) -> None:
        directory.mkdir()
        (directory / "stubborn.py").write_text(APP.replace("{kind}", kind))
        self.name = directory.name
        self._jobs = {"jobs": 3, "loop": 1}[kind] * int(processes or 1)
        self._done = directory / "done"
        several = ("--processes", processes) if processes else ()
        self.context = WorkerCommand.running(directory, "stubborn:app", *several, *options, TASKCORE_URL=url)

    def has_begun(self) -> bool:
        """Tell whether all of its jobs run."""
        return self._done.exists() and len(self._done.read_text().split()) >= self._jobs


@contextmanager
def stubborn_commands(tmp_path: Path, url: str, *options: str) -> Iterator[dict[str, WorkerCommand]]:
    """Run workers alone and under a supervisor, whose jobs all run when this yields."""
    made = [
        Stubborn(tmp_path / f"{kind}{processes}", kind, processes, options, f"{url}/{number}")
        for number, (kind, processes) in enumerate([("jobs", ""), ("jobs", "2"), ("loop", ""), ("loop", "1")])
    ]
    with ExitStack() as exits:
        commands = {each.name: exits.enter_context(each.context) for each in made}
        for each in made:
            eventually(each.has_begun, 60.0, what=f"the jobs of {each.name}: {commands[each.name].said}")
        yield commands


def seconds_to_end(commands: dict[str, WorkerCommand], within: float) -> dict[str, float]:
    """Send SIGTERM to each; return how long each took to end, with all of its processes."""
    began, took = time.monotonic(), dict[str, float]()
    for command in commands.values():
        command.signal()

    def look() -> bool:
        for name, command in commands.items():
            if name not in took and command.process.poll() is not None:
                took[name] = time.monotonic() - began
        return len(took) == len(commands)

    eventually(look, within + 10.0, what=f"the end; so far {took}")
    for command in commands.values():
        assert not any(map(is_running, command.pids()))
    return took


def test_the_defaults_fit_into_kubernetes():
    """Grace, cleaning up and the supervisor's margin leave two of Kubernetes' thirty seconds."""
    assert Settings().grace + CLEANUP_TIMEOUT + KILL_MARGIN <= KUBERNETES - TO_NOTICE


@pytest.mark.parametrize(("grace", "options"), [(1.0, ("--grace", "1s")), pytest.param(20.0, (), marks=LONG)])
def test_a_worker_ends_by_itself(tmp_path, grace, options):
    """Jobs ignore their interruption, threads never return, a job blocks the loop, the broker is frozen: it ends."""
    limit = grace + KUBERNETES - Settings().grace
    with serving(RedisServer) as server, ExitStack() as exits:
        url = server.url.rpartition("/")[0]
        commands = exits.enter_context(stubborn_commands(tmp_path, url, *options))
        server.pause()
        exits.callback(server.resume)
        time.sleep(1.0)
        took = seconds_to_end(commands, limit)
        for name, command in commands.items():
            print(name, took[name], command.said, sep="\n")  # noqa: T201 - pytest shows it beside a failure

    assert max(took.values()) < limit, took
    assert min(took.values()) >= grace, took
