"""The environment that a scenario is measured on: one broker, how long to measure, and names of our own in it."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import anyio
import msgspec

from taskcore.adapters import has_store
from taskcore.app import App
from taskcore.bench.figures import Better, Figure
from taskcore.bench.jobs import make_app
from taskcore.bench.ledger import JobLedger
from taskcore.bench.proc import cpu_of, has_proc
from taskcore.bench.program import Spec
from taskcore.bench.tally import Tally
from taskcore.bench.workers import InProcessWorkers, WorkerProcesses, Workers
from taskcore.envelope import new_id
from taskcore.errors import BrokerUnavailable, TaskcoreError
from taskcore.faults.servers import Server
from taskcore.toolkit.logging import logger

__all__ = ["FULL", "QUICK", "BenchEnvironment", "NotHere", "Size"]

log = logger("taskcore.bench")

LAST_CLEANING = 5.0  #: seconds that deleting our queues may take at the end
PILOT_JOBS = 300  #: jobs by which the right number for a round is found
MAX_JOBS = 100_000  #: jobs of one round


class NotHere(TaskcoreError):
    """A scenario cannot be measured on this broker; the text says why."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured. Times in seconds.

    :param seconds: how long one round of a rate is to take.
    :param arrivals: rates of the open loop, and for how long each.
    :param lease: of the workers that are killed; it decides how soon their jobs are handed out again.
    :param outage_jobs: a second, while the broker is killed.
    """

    rounds: int
    seconds: float
    processes: tuple[int, ...]
    arrivals: tuple[tuple[float, float], ...]
    payloads: tuple[int, ...]
    scheduled: int
    lease: float
    killed_jobs: int
    outage: float
    outage_jobs: float
    idle: float
    stored: int
    backlog: int = 0
    quick: bool = False


FULL: Final = Size(
    rounds=3,
    seconds=0.6,
    processes=(1, 2, 4),
    arrivals=((50.0, 5.0), (500.0, 4.0), (2000.0, 3.0)),
    payloads=(100, 1_000, 10_000, 100_000),
    scheduled=1_000,
    lease=5.0,
    killed_jobs=2_000,
    outage=6.0,
    outage_jobs=200.0,
    idle=4.0,
    stored=20_000,
)
QUICK: Final = Size(
    rounds=1,
    seconds=0.25,
    processes=(1, 2),
    arrivals=((50.0, 2.0),),
    payloads=(100, 10_000),
    scheduled=200,
    lease=2.0,
    killed_jobs=600,
    outage=3.0,
    outage_jobs=100.0,
    idle=1.5,
    stored=2_000,
    quick=True,
)


class BenchEnvironment:
    """One broker. Inside of the context it is there; afterwards our queues are not.

    :param broker: its name in figures.
    :param store: where records go, if not into the broker.
    :param server: the private server, which may be killed; None: a foreign broker, to be treated with care.
    """

    def __init__(
        self, broker: str, url: str, size: Size, *, store: str | None = None, server: Server | None = None
    ) -> None:
        self.broker = broker
        self.url = url
        self.size = size
        self.store = store if store is not None or has_store(url) else "none"
        self.server = server
        self._queues: list[str] = []
        self._folder = Path()

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="taskcore-bench-"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.server is not None:
            return  # it ends with all that is in it
        with anyio.move_on_after(LAST_CLEANING, shield=True):  # also after Ctrl-C
            try:
                await self.clean_up()
            except BrokerUnavailable as gone:
                log.warning("these queues of ours could not be deleted: %s; %s", ", ".join(self._queues), gone)

    @property
    def is_local(self) -> bool:
        """Whether the broker lives in this process, so that other processes cannot work for it."""
        return self.url.startswith("memory:")

    # ── names and folders of our own ──

    def new_queue(self) -> str:
        """Name a new queue of this run; :meth:`clean_up` deletes it."""
        self._queues.append(f"bench-{new_id()[-12:]}")
        return self._queues[-1]

    def new_folder(self) -> Path:
        """Make an empty folder."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    async def clean_up(self) -> None:
        """Delete our queues, dead letters included. Records of results and keys end by themselves, in two minutes."""
        if not self._queues or self.is_local:
            self._queues.clear()
            return
        async with App(self.url, store="none") as app:
            while self._queues:
                await app.components.backend.admin.delete(self._queues[-1])
                self._queues.pop()

    # ── apps and workers ──

    def app(self, queue: str, *, with_store: bool = False, tally: Tally | None = None, **settings: Any) -> App:
        """Make an app on a queue of ours; without a store unless the scenario needs one.

        :raises NotHere: it needs one, and there is none.
        """
        if with_store and self.store == "none":
            raise NotHere("this broker keeps no records, and no store was named", fix="--store URL")
        store = self.store if with_store else "none"
        if self.is_local:
            settings.setdefault("url", "memory://?limit=10000000")
        return make_app(settings.pop("url", self.url), store, queue, tally=tally, **settings)

    @asynccontextmanager
    async def workers(
        self, app: App, queue: str, tally: Tally, *, number: int = 1, timed: bool = False
    ) -> AsyncIterator[Workers]:
        """Run workers of a queue: so many processes, or one right here if the broker is here."""
        if self.is_local:
            tally.timed = timed
            async with InProcessWorkers(app, tally) as here:
                yield here
            return
        async with self.processes(app, queue, number=number, timed=timed) as workers:
            yield workers

    def processes(
        self,
        app: App,
        queue: str,
        *,
        number: int = 1,
        url: str | None = None,
        timed: bool = False,
        counts: bool = True,
        ledger: JobLedger | None = None,
        lease: float | None = None,
    ) -> WorkerProcesses:
        """Make worker processes.

        :raises NotHere: the broker lives in this process.
        """
        if self.is_local:
            raise NotHere("this broker lives in this process")
        spec = Spec(
            url=url or self.url,
            store="none" if app.components.store is None else self.store,
            queue=queue,
            report="",
            ledger=str(ledger.path) if ledger is not None else None,
            timed=timed,
            counts=counts,
            lease=lease,
        )
        return WorkerProcesses(spec, number, self.new_folder())

    def ledger(self) -> JobLedger:
        """Make a new ledger."""
        return JobLedger(self.new_folder() / "ledger")

    # ── measuring ──

    async def rounds(self, measure: Callable[[int], Awaitable[float]], *, most: int = MAX_JOBS) -> tuple[float, ...]:
        """Measure jobs a second, one value for each round.

        :param measure: does so many jobs and says how many seconds they took. The first time is to warm up, and to
            find out how many it takes for a round of the wanted length.
        """
        rate = PILOT_JOBS / max(await measure(PILOT_JOBS), 1e-6)
        jobs = max(min(int(rate * self.size.seconds), most) // 100, 1) * 100
        values = []
        for _ in range(self.size.rounds):
            gc.collect()
            values.append(jobs / await measure(jobs))
        return tuple(values)

    def figure(
        self,
        scenario: str,
        name: str,
        unit: str,
        values: tuple[float, ...],
        better: Better = "more",
        facts: Mapping[str, Any] | None = None,
    ) -> Figure:
        """Make a figure of ours on this broker."""
        return Figure(
            broker=self.broker,
            who="taskcore",
            scenario=scenario,
            name=name,
            unit=unit,
            values=values,
            better=better,
            facts=dict(facts or {}),
        )

    def private(self) -> Server:
        """Return the server, for a scenario that kills it or looks into it.

        :raises NotHere: the broker is a foreign one.
        """
        if self.is_local:
            raise NotHere("this broker lives in this process")
        if self.server is None:
            raise NotHere("only for a server that was started for this, because it is killed or looked into")
        return self.server

    def broker_cpu(self) -> float | None:
        """Return the seconds of CPU that the broker's processes have used; None if unknown."""
        return cpu_of(self.server.pid) if self.server is not None and self.server.running and has_proc() else None

    async def holds(self, app: App, queue: str, jobs: int) -> None:
        """Check that all jobs that were enqueued are there; some brokers count a little later.

        :raises RuntimeError: some are missing.
        """
        ready = 0
        with anyio.move_on_after(5.0):
            while (ready := (await app.stats(queue)).ready) < jobs:  # noqa: ASYNC110 - nor has a broker
                await anyio.sleep(0.02)
        if ready < jobs:
            raise RuntimeError(f"{jobs} jobs were enqueued, and the queue has {ready}")

    async def settled(self, app: App, queue: str, *, within: float = 30.0) -> None:
        """Wait until the queue is empty.

        :raises TimeoutError: it is not, so jobs were left.
        """
        with anyio.move_on_after(within):
            while True:
                try:
                    stats = await app.stats(queue)
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
                    continue
                if not stats.unfinished:
                    return
                await anyio.sleep(0.02)
        raise TimeoutError(f"the queue was not empty after {within:g} s")
