"""What the thread costs that keeps leases: ``python benchmarks/keeping.py [JOBS]``; needs redis-server.

idle       it looks at what is in hand, and the event loop extends
blocked    it extends itself, because a task blocks the loop
"""

from __future__ import annotations

import sys
import time

import anyio

from taskcore import App
from taskcore.faults import RedisServer
from taskcore.keeping import thread as keeping

SECONDS = 20.0  #: of each measurement


class Meter:
    """The processor time of the keeper's thread."""

    def __init__(self) -> None:
        self.used = self.wall = 0.0

    def install(self) -> None:
        """Measure each thread that a worker starts from now on."""
        watch = keeping.KeeperThread._watch  # noqa: SLF001 - what is measured

        def measured(one: keeping.KeeperThread) -> None:
            began, wall = time.thread_time(), time.monotonic()
            watch(one)
            self.used, self.wall = time.thread_time() - began, time.monotonic() - wall

        keeping.KeeperThread._watch = measured  # type: ignore[method-assign]  # noqa: SLF001

    def tell(self, what: str) -> None:
        """Print the figure."""
        print(f"{what:8} {100 * self.used / self.wall:.3f} % of a core for {self.wall:.0f} s")


async def hold(url: str, jobs: int, *, block: bool) -> None:
    """Hold so many jobs for a while; with ``block`` one of them blocks the loop."""
    app = App(url, concurrency=jobs + 1)

    @app.task(name="hold")
    async def wait() -> None:
        await anyio.sleep(SECONDS)

    @app.task(name="block")
    async def stand() -> None:
        await anyio.sleep(2.0)
        time.sleep(SECONDS)  # noqa: ASYNC251 - what is measured

    async with app.running():
        await app.enqueue_many([wait.call() for _ in range(jobs)])
        if block:
            await stand.enqueue()
        await anyio.sleep(SECONDS + 1)


async def main(jobs: int) -> None:
    """Measure both."""
    meter = Meter()
    meter.install()
    async with RedisServer() as server:
        for what, block in (("idle", False), ("blocked", True)):
            await hold(server.url, jobs, block=block)
            await anyio.sleep(0.5)
            meter.tell(what)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
