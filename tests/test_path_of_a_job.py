"""How many files of the core one job passes: the number that a reader has to open to follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import anyio
import pytest

import taskcore
from taskcore import App

SRC = Path(taskcore.__file__).parent
#: Rooms of which a reader of the core needs the protocol only.
ROOMS = ("backends/", "stores/", "connections/", "toolkit/")
#: These run beside the jobs: what keeps leases, keys and waiting jobs, and how many more jobs may come.
BESIDE = {"worker/leases.py", "worker/pools.py", "keeping/keys.py", "keeping/waiting.py"}
#: Called by the in-memory store, and not by the core.
OF_ADAPTERS = {"store.py"}

#: The way of a job without a result, in its order. ``lifecycle`` is asked about jobs that do not end well.
PATH = [
    "task.py",
    "contract/contract.py",
    "contract/codec/codec.py",
    "client/client.py",
    "envelope.py",
    "observe.py",
    "worker/inbox.py",
    "worker/slots.py",
    "worker/perform.py",
    "worker/decide.py",
    "worker/settle.py",
]
#: What comes in when the outcome is stored.
STORED = ["results.py", "records/outcomes.py", "worker/settle_records.py"]


@contextmanager
def executed() -> Iterator[list[str]]:
    """Collect the files of the core of which a function runs inside of the block."""
    files: dict[str, None] = {}

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SRC):
            name = path.relative_to(SRC).as_posix()
            if not name.startswith(ROOMS) and name not in BESIDE | OF_ADAPTERS:
                files.setdefault(name)

    found: list[str] = []
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        found += files


async def walk(*, store: str | None) -> list[str]:
    """Send one job to a worker that waits for it, until the broker has forgotten it."""
    app = App("memory://", store=store)

    @app.task(name="add")
    async def add(number: int) -> int:
        return number + 1

    async with app.running():
        await anyio.wait_all_tasks_blocked()
        with executed() as files:
            await add.enqueue(1)
            with anyio.fail_after(5):
                while not app._events.counters["settle.complete"]:  # noqa: ASYNC110 - a listener would be on the path
                    await anyio.sleep(0.001)
    return files


@pytest.mark.skipif(sys.gettrace() is not None or sys.getprofile() is not None, reason="this process is traced")
@pytest.mark.parametrize(("store", "path"), [("none", PATH), (None, [*PATH, *STORED])], ids=["plain", "result kept"])
def test_the_path_of_a_job(store: str | None, path: list[str]) -> None:
    """A job passes these files and no others, so that a new one on its path is noticed."""
    assert set(anyio.run(lambda: walk(store=store))) == set(path)


def test_the_path_is_short() -> None:
    """The path has as few files as a reader can follow; these numbers may only fall."""
    assert len(PATH) <= 12
    assert len(STORED) <= 3
