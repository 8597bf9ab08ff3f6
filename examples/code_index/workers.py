"""Run the workers: in this process, or in other processes that may be killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from examples.code_index import journal
from examples.code_index.errors import WorkerEnded
from examples.code_index.tasks import FILES, PARSE, app

__all__ = ["GRACE", "Killed", "Workers"]

ROOT = Path(__file__).resolve().parents[2]  #: the folder from which `examples` can be imported
APP = "examples.code_index.journal:app"
QUEUES = (PARSE, FILES)  #: most urgent first: finish started files before new ones
GRACE: Final = 10.0  #: seconds that a worker has to finish running jobs
SHORT_LEASE = "5s"  #: after this time another worker gets the jobs of a killed one; use a longer lease for longer work


@dataclass
class _Worker:
    number: int
    process: anyio.abc.Process
    journal: Path
    log: Path
    killed: bool = False


@dataclass(frozen=True)
class Killed:
    """A worker process that was killed.

    :param under_way: jobs that it had begun and not settled, by its journal.
    """

    number: int
    pid: int
    under_way: int


class Workers:
    """Several processes of ``taskcore worker``, or none: then this process does the work.

    :param out: the folder of their logs and journals.
    :param impatient: whether to use short leases, because some of them will be killed.
    """

    def __init__(self, number: int, out: Path, *, impatient: bool) -> None:
        self.number = number
        self._out = out
        self._impatient = impatient
        self._workers: list[_Worker] = []
        for old in out.glob("journal-*"):
            old.unlink()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run the workers while this context is open. The rest of the program sees no difference."""
        if self.number == 0:
            journal.keep(self._out / "journal-0")
            async with app.running(queues=QUEUES, grace=GRACE):
                yield
            return
        async with anyio.create_task_group() as group:
            try:
                for number in range(1, self.number + 1):
                    worker = await self._start(number)
                    self._workers.append(worker)
                    group.start_soon(_must_go_on, worker)
                yield
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for worker in self._workers:
                        await _end(worker.process)

    async def kill_busiest(self) -> Killed:
        """Kill the worker with the most jobs under way, as the kernel does when memory runs out."""
        worker = max((one for one in self._workers if not one.killed), key=_under_way)
        worker.killed = True
        worker.process.kill()
        await worker.process.wait()
        return Killed(worker.number, worker.process.pid, _under_way(worker))

    @property
    def busy(self) -> bool:
        """Whether any worker has a job under way."""
        return any(_under_way(worker) for worker in self._workers if not worker.killed)

    def journals(self) -> list[journal.Journal]:
        """Read the journal of each worker."""
        return [journal.read(path) for path in sorted(self._out.glob("journal-*"))]

    async def _start(self, number: int) -> _Worker:
        into, log = self._out / f"journal-{number}", self._out / f"worker-{number}.log"
        command = [
            sys.executable, "-m", "taskcore", "worker", APP,
            "--app-dir", str(ROOT), "--log-level", "warning", "--queues", ",".join(QUEUES), "--grace", str(GRACE),
        ]  # fmt: skip
        with log.open("w") as output:
            # A session of its own: Ctrl-C should reach this program only, which then stops its workers.
            process = await anyio.open_process(
                command, stdout=output, stderr=output, start_new_session=True, env=self._environment(into)
            )
        return _Worker(number, process, into, log)

    def _environment(self, into: Path) -> Mapping[str, str]:
        """Return the environment of a worker: this program's, with a few settings more."""
        ours = {journal.JOURNAL: str(into)}
        if self._impatient and app.sources["lease"] == "default":
            ours["TASKCORE_LEASE"] = SHORT_LEASE
        return os.environ | ours


def _under_way(worker: _Worker) -> int:
    return journal.read(worker.journal).under_way


async def _must_go_on(worker: _Worker) -> None:
    code = await worker.process.wait()
    if not worker.killed:
        raise WorkerEnded(f"a worker process ended with code {code}; it says why in {worker.log}")


async def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(GRACE + 5.0):
            await process.wait()
            return
        process.kill()
