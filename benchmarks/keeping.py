"""What keeping leases costs: ``python benchmarks/keeping.py [JOBS]``; needs redis-server.

idle       the event loop extends; the thread looks at what is in hand, and the keeper process looks at the thread
blocked    the thread extends, because a task blocks the loop
held       the keeper process extends, because C code keeps the GIL
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from taskcore import App
from taskcore.faults import RedisServer
from taskcore.keeping import thread as keeping

SECONDS = 20.0  #: of each measurement


class Meter:
    """The processor time of the keeper's thread, of what it asks of the event loop, and of the keeper process."""

    def __init__(self) -> None:
        self.thread = self.loop = self.process = self.wall = 0.0
        self.memory = 0  # KiB

    def install(self) -> None:
        """Measure each keeper that a worker starts from now on."""
        watch, answer = keeping.KeeperThread._watch, keeping.KeeperThread._answer  # noqa: SLF001 - what is measured

        def measured(one: keeping.KeeperThread) -> None:
            began, wall, self.loop = time.thread_time(), time.monotonic(), 0.0
            watch(one)
            self.thread, self.wall = time.thread_time() - began, time.monotonic() - wall

        def answered(one: keeping.KeeperThread) -> None:
            began = time.thread_time()
            answer(one)
            self.loop += time.thread_time() - began

        keeping.KeeperThread._watch = measured  # type: ignore[method-assign]  # noqa: SLF001
        keeping.KeeperThread._answer = answered  # type: ignore[method-assign]  # noqa: SLF001

    def look(self, pid: int) -> None:
        """Read what the keeper process has used; the system knows."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.process = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{pid}/status").read_text()
        self.memory = int(status.partition("VmRSS:")[2].split()[0])

    def tell(self, what: str) -> None:
        """Print the figures."""
        parts = {"thread": self.thread, "loop": self.loop, "process": self.process}
        costs = ", ".join(f"{part} {100 * used / self.wall:.3f} %" for part, used in parts.items())
        print(f"{what:8} {costs} of a core for {self.wall:.0f} s; the process occupies {self.memory / 1024:.1f} MiB")


def children() -> set[int]:
    """Find the processes that this one has started."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return {int(each) for each in listed.split()}


async def hold(url: str, jobs: int, meter: Meter, stand: Callable[[], Any] | None) -> None:
    """Hold so many jobs for a while; with ``stand`` one of them calls that."""
    app = App(url, concurrency=jobs + 1)
    before = children()

    @app.task(name="hold")
    async def wait() -> None:
        await anyio.sleep(SECONDS)

    @app.task(name="block")
    async def block() -> None:
        await anyio.sleep(2.0)
        assert stand is not None
        stand()

    async with app.running():
        await app.enqueue_many([wait.call() for _ in range(jobs)])
        if stand is not None:
            await block.enqueue()
        await anyio.sleep(SECONDS + 1)
        [keeper] = children() - before
        meter.look(keeper)


async def main(jobs: int) -> None:
    """Measure all."""
    meter = Meter()
    meter.install()
    held = lambda: ctypes.PyDLL(None).sleep(int(SECONDS))  # noqa: E731 - as short as the other
    ways = {"idle": None, "blocked": lambda: time.sleep(SECONDS), "held": held}
    async with RedisServer() as server:
        for what, stand in ways.items():
            await hold(server.url, jobs, meter, stand)
            await anyio.sleep(0.5)
            meter.tell(what)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
