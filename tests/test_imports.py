"""What `import taskcore` costs: its modules are recorded, and its CPU time is compared with that of `import asyncio`.

A program that declares tasks, or a web server that starts, needs no event loop, no worker, no client library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import taskcore

#: The modules of ours that `import taskcore` loads. The list may only shrink.
RECORDED = Path(__file__).parent / "support" / "imported.txt"
#: Other distributions that may be loaded: msgspec needs the second on older Pythons.
DISTRIBUTIONS = {"msgspec", "typing_extensions"}
#: Parts of the standard library that take long, and that declaring tasks does not need.
HEAVY = {
    "asyncio", "concurrent.futures", "difflib", "email", "hashlib", "importlib.metadata", "multiprocessing",
    "pathlib", "secrets", "socket", "ssl", "subprocess", "tempfile", "tomllib",
}  # fmt: skip
LATER = ["Context", "DeadLetter", "SyncJob", "current"]

#: CPU seconds of a process that imports taskcore, compared with one that imports asyncio; 1.1 when this was written.
SLOWEST = 1.3


def run(program: str, **environ: str) -> str:
    """Return what a program prints in a new process."""
    command = [sys.executable, "-c", program]
    env = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=env).stdout


def loaded(program: str) -> set[str]:
    """Return the modules that a program in a new process has loaded at its end, without those that any program has."""
    printed = "import sys\nprint(*sys.modules)"
    return set(run(f"{program}\n{printed}").split()) - set(run(printed).split())


def test_importing_loads_what_is_recorded():
    """`import taskcore` loads those modules of ours that are recorded: no other, and none is recorded that is not."""
    ours = {name for name in loaded("import taskcore") if name.partition(".")[0] == "taskcore"}
    assert sorted(ours) == RECORDED.read_text().split()


def test_importing_loads_nothing_heavy():
    """`import taskcore` loads no event loop, no heavy part of the standard library, and one other distribution."""
    modules = loaded("import taskcore")
    assert not HEAVY & modules
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names <= {"taskcore", *DISTRIBUTIONS}


def test_declaring_tasks_needs_no_event_loop():
    """A library that declares tasks on a router loads nothing heavy; an app loads no client and no worker."""
    task = "@app.task(name='work')\ndef work(number: int = 1) -> None: ..."
    assert not HEAVY & loaded(f"import taskcore\napp = taskcore.Router()\n{task}")
    modules = loaded(f"import taskcore\napp = taskcore.App('memory://')\n{task}")
    assert not {"asyncio", "taskcore.client.client", "taskcore.worker.worker"} & modules


@pytest.mark.parametrize("name", LATER)
def test_names_that_come_later(name: str):
    """A public name whose module is imported with its first use is there, is listed, and comes from that module."""
    assert name in dir(taskcore)
    assert run(f"import taskcore\nprint({name!r} in vars(taskcore), taskcore.{name}.__name__)").split() == [
        "False",
        name,
    ]
    assert run(f"from taskcore import {name}\nprint({name}.__module__)").startswith("taskcore.")


def test_unknown_names_are_refused():
    """A name that taskcore does not have is an AttributeError, as with any module."""
    with pytest.raises(AttributeError, match="module 'taskcore' has no attribute 'Tsak'"):
        taskcore.Tsak  # noqa: B018


def test_importing_takes_hardly_longer_than_asyncio(tmp_path: Path):
    """With its bytecode cached, `import taskcore` takes hardly more CPU time than `import asyncio`: best of a few."""
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def cpu_time(module: str) -> float:
        return float(run(f"import {module}\nimport time\nprint(time.process_time())", **cached))

    ours, theirs = [cpu_time("taskcore")], [cpu_time("asyncio")]  # these write the bytecode
    for turn in range(40):  # a busy machine needs more turns than a quiet one, until each had a good one
        ours.append(cpu_time("taskcore"))
        theirs.append(cpu_time("asyncio"))
        if turn >= 10 and min(ours) / min(theirs) < SLOWEST:
            return
    pytest.fail(f"{min(ours) * 1000:.0f} ms, asyncio takes {min(theirs) * 1000:.0f} ms")
