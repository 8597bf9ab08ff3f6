"""The workers: some worker processes; on a broker that lives in this process, a worker right here.

async with WorkerProcesses(spec, 2, folder) as workers:     or:  async with InProcessWorkers(app, tally) as workers:
    await workers.count_to(1000, within=60)
    report = await workers.dismiss()
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import anyio
import msgspec

from taskcore.app import App
from taskcore.bench.proc import cpu_of, has_proc
from taskcore.bench.program import ORDERS, Spec
from taskcore.bench.tally import POLL_SECONDS, Tally
from taskcore.faults.child import Child

__all__ = ["InProcessWorkers", "WorkerProcesses", "Workers", "WorkersReport"]

READY_WITHIN = 30.0  #: seconds that a worker has to start
STOPS_WITHIN = 20.0
START = "from taskcore.bench.program import main; main()"


class WorkersReport:
    """What a group of workers reports together. Times in seconds, memory in bytes.

    :param reports: what :meth:`Tally.report` gave, one for each process.
    """

    def __init__(self, reports: Sequence[dict[str, Any]]) -> None:
        busy = [report for report in reports if report["numbers"]]
        self.counts = Counter(number for report in busy for number in report["numbers"])
        self.latencies: list[float] = [late for report in busy for late in report["latencies"]]
        first = min((report["first"] for report in busy), default=0.0)
        self.seconds = max((report["last"] for report in busy), default=0.0) - first
        self.cpu: float = sum(report["cpu"] for report in busy)
        self.rss: int = max((report["rss"] for report in reports), default=0)

    def account(self, jobs: int) -> dict[str, int]:
        """Count how many of the jobs 0 … ``jobs`` - 1 never ran, and how many ran more than once."""
        return {
            "jobs": jobs,
            "lost": sum(1 for number in range(jobs) if not self.counts[number]),
            "duplicated": sum(1 for number in range(jobs) if self.counts[number] > 1),
        }


class Workers(Protocol):
    """What a scenario needs of its workers."""

    async def __aenter__(self) -> Self:
        """Begin to work; returns when all are ready."""
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Stop all workers, whatever happened."""
        ...

    def counted(self) -> int:
        """Count the jobs that have run so far."""
        ...

    async def count_to(self, jobs: int, *, within: float) -> None:
        """Wait until so many jobs have run.

        :raises TimeoutError: it takes longer.
        """
        ...

    async def dismiss(self) -> WorkersReport:
        """Let them finish; what they have to tell."""
        ...


class InProcessWorkers:
    """A worker in this process, for a broker that lives in it."""

    def __init__(self, app: App, tally: Tally) -> None:
        self._app = app
        self._tally = tally
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tally.begin()
        await self._exits.enter_async_context(self._app.running())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._exits.aclose()

    def counted(self) -> int:
        """See :class:`Workers`."""
        return len(self._tally.numbers)

    async def count_to(self, jobs: int, *, within: float) -> None:
        """See :class:`Workers`."""
        await _count_to(self, jobs, within)
        self._tally.cpu_last = time.process_time()

    async def dismiss(self) -> WorkersReport:
        """See :class:`Workers`."""
        await self._exits.aclose()
        return WorkersReport([self._tally.report()])


class WorkerProcesses:
    """Worker processes.

    :param spec: the orders of each of them; ``report`` is filled in here.
    :param folder: an empty folder for what they write.
    """

    def __init__(self, spec: Spec, number: int, folder: Path) -> None:
        self._folder = folder
        self._reports = [folder / f"worker-{index}.json" for index in range(number)]
        self._children = [self._child(spec, report) for report in self._reports]

    def _child(self, spec: Spec, report: Path) -> Child:
        instructions = msgspec.json.encode(msgspec.structs.replace(spec, report=str(report))).decode()
        return Child(
            [sys.executable, "-c", START],
            output=report.with_suffix(".log"),
            environment={
                **{name: value for name, value in os.environ.items() if not name.startswith("TASKCORE_")},
                ORDERS: instructions,  # every user of the machine can read a command line, and URLs have passwords
            },
            folder=self._folder,
        )

    async def __aenter__(self) -> Self:
        try:
            for child in self._children:
                child.start()
            for child in self._children:
                await self._ready(child)
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        error = exc[1]
        if isinstance(error, BaseException):
            for child in self._children:
                error.add_note(f"the end of a worker's output:\n{child.tail()}")
        self.kill()

    async def _ready(self, child: Child) -> None:
        with anyio.move_on_after(READY_WITHIN):
            while "ready" not in child.tail():
                if not child.running:
                    raise RuntimeError(f"a worker ended at its start; its output:\n{child.tail()}")
                await anyio.sleep(0.02)
            return
        raise TimeoutError(f"a worker was not ready after {READY_WITHIN:g} s; its output:\n{child.tail()}")

    def counted(self) -> int:
        """See :class:`Workers`."""
        counts = (report.with_suffix(".count") for report in self._reports)
        return sum(int(path.read_text()) for path in counts if path.exists())

    async def count_to(self, jobs: int, *, within: float) -> None:
        """See :class:`Workers`."""
        await _count_to(self, jobs, within)

    async def dismiss(self) -> WorkersReport:
        """See :class:`Workers`.

        :raises TimeoutError: one of them does not stop.
        """
        for child in self._children:
            child.send(signal.SIGTERM)
        for child in self._children:
            await child.wait(STOPS_WITHIN)
        return WorkersReport([msgspec.json.decode(path.read_bytes()) for path in self._reports if path.exists()])

    def kill(self, index: int | None = None) -> None:
        """End one of them, or all, with SIGKILL."""
        for child in self._children if index is None else [self._children[index]]:
            child.kill()

    def pid(self, index: int) -> int:
        """Return the process id of one of them."""
        return self._children[index].pid

    def cpu(self) -> float:
        """Return the seconds of CPU that they have used so far; 0 where that is unknown."""
        return sum(cpu_of(child.pid) for child in self._children) if has_proc() else 0.0


async def _count_to(workers: InProcessWorkers | WorkerProcesses, jobs: int, within: float) -> None:
    with anyio.move_on_after(within):
        while workers.counted() < jobs:  # noqa: ASYNC110 - another process has no event
            await anyio.sleep(POLL_SECONDS)
        return
    raise TimeoutError(f"only {workers.counted()} of {jobs} jobs have run within {within:g} s")
