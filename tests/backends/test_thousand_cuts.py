"""A worker whose connections are cut again and again keeps its size: descriptors, tasks, threads and memory (F41).

A run of each day cuts sixty times; ``TASKCORE_LONG_TESTS=1`` cuts a thousand times, for minutes on each broker.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import anyio
import msgspec
import pytest

from taskcore import App
from taskcore.faults import ChaosProxy, Server
from tests.support.command import WorkerCommand

LONG: Final = "TASKCORE_LONG_TESTS" in os.environ
FIRST, LAST = (100, 1_000) if LONG else (20, 60)  #: the cuts after which the worker is measured
PATIENCE = 30.0  #: seconds for a worker to work again after a cut

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1_800 if LONG else 120)]

PROGRAM = '''
import asyncio
import gc
import os
from pathlib import Path

from taskcore import App
from taskcore.connections.nats import connection
from taskcore.worker import outages

outages.FIRST_PAUSE, outages.LONGEST_PAUSE = 0.02, 0.2
connection.FIRST_PAUSE, connection.LONGEST_PAUSE = 0.02, 0.2

app = App.from_config(lease=5.0, heartbeat=0.5)
HERE = Path(__file__).parent


def leave(file, line):
    with (HERE / file).open("a") as open_file:
        open_file.write(f"{line}\\n")


@app.task(name="work")
async def work(number: int) -> None:
    """Say that the worker works."""
    leave("done", number)


@app.task(name="measure")
async def measure() -> None:
    """Count what a leak would let grow."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    counts = [len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), len(os.listdir("/proc/self/task")), pages * 4]
    leave("sizes", f'{{"descriptors":{counts[0]},"tasks":{counts[1]},"threads":{counts[2]},"memory":{counts[3]}}}')
'''


class Size(msgspec.Struct, frozen=True):
    """What a worker said of itself; memory in KiB."""

    descriptors: int
    tasks: int
    threads: int
    memory: int


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


class Cutter:
    """Cuts all connections of a worker, and sends it jobs past the proxy to see that it works again."""

    def __init__(self, app: App, proxy: ChaosProxy, folder: Path) -> None:
        self._app, self._proxy, self._folder = app, proxy, folder
        self.cuts = 0

    async def cut(self) -> None:
        """Cut once, and wait until a job has run that was sent when the worker was connected again."""
        before = self._proxy.accepted
        self._proxy.cut()
        self.cuts += 1
        with anyio.fail_after(PATIENCE):
            while self._proxy.accepted == before:  # noqa: ASYNC110 - a job that meets a dying connection waits for its lease to end
                await anyio.sleep(0.01)
        await self._app.tasks["work"].enqueue(self.cuts)
        await self._until("done", lambda lines: str(self.cuts) in lines)

    async def measure(self, number: int) -> Size:
        """Let the worker rest, and ask how large it is."""
        await anyio.sleep(1.0)
        await self._app.tasks["measure"].enqueue()
        lines = await self._until("sizes", lambda lines: len(lines) >= number)
        return msgspec.json.decode(lines[number - 1], type=Size)

    async def _until(self, name, holds) -> list[str]:
        file = self._folder / name
        with anyio.fail_after(PATIENCE):
            while not holds(lines := file.read_text().split() if file.exists() else []):  # noqa: ASYNC110 - of a process
                await anyio.sleep(0.01)
        return lines


def sender_of(url: str) -> App:
    """Make an app that knows the worker's tasks."""
    app = App(url)

    @app.task(name="work")
    async def work(number: int) -> None: ...

    @app.task(name="measure")
    async def measure() -> None: ...

    return app


async def test_a_worker_keeps_its_size(broker: Server, tmp_path: Path):
    """After many cuts a worker has as many descriptors, tasks and threads, and as much memory, as after a few (F41)."""
    (tmp_path / "cuts.py").write_text(PROGRAM)
    async with ChaosProxy("127.0.0.1", broker.port) as proxy, sender_of(broker.url) as app:
        await app.purge("default")
        through = broker.url.replace(f":{broker.port}", f":{proxy.port}")
        with WorkerCommand.running(tmp_path, "cuts:app", TASKCORE_URL=through) as command:
            await anyio.to_thread.run_sync(command.wait_for, "ready in")
            cutter, began = Cutter(app, proxy, tmp_path), time.monotonic()
            sizes: list[Size] = []
            while cutter.cuts < LAST:
                await cutter.cut()
                if cutter.cuts in (FIRST, LAST):
                    sizes.append(await cutter.measure(len(sizes) + 1))
            took = time.monotonic() - began
            command.signal()
            assert await anyio.to_thread.run_sync(command.end) == 0
    few, many = sizes
    print(f"{FIRST} cuts: {few}\n{LAST} cuts: {many}, {took:.0f} s")  # noqa: T201 - what the documentation tells

    assert many.descriptors <= few.descriptors + 2
    assert many.tasks <= few.tasks + 2
    assert many.threads <= few.threads + 1
    assert many.memory <= few.memory + 4 * 1_024
    assert "Traceback" not in command.said
    assert "aiormq" not in command.said
