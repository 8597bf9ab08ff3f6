"""One run: a preview, two workers that are killed in turns, and the verdict."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.schedule_kills.judge import Start, Verdict, judge
from benchmarks.soak.addresses import Endpoint

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "benchmarks.schedule_kills.program"]
LEASE = "4s"  #: after this time another worker has the jobs of a killed one
SETTLING = 12.0  #: seconds after the last kill within which every claim and every job of a dead worker is over
PAUSES = (0.2, 2.5)  #: seconds between the start of one worker and the death of the other
READY_WITHIN = 60.0
DECLARED_WITHIN = (15.0, 60.0)  #: seconds in which the first worker declares the schedules; the latter in a long run


class Worker:
    """A worker process, which is replaced when it is killed."""

    def __init__(self, environment: dict[str, str], ledger: Path, log: Path) -> None:
        self._environment, self._ledger, self._log = environment, ledger, log
        self._process: subprocess.Popen[str] | None = None
        self.killed: dict[int, float] = {}

    async def start(self) -> None:
        """Start it, and wait until it works."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it starts in milliseconds
                [*PROGRAM, "work", str(self._ledger)],
                cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        with anyio.fail_after(READY_WITHIN):
            line = await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
        if line != "ready\n":
            raise RuntimeError(f"a worker did not start; see {self._log}")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None and self._process.stdout is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.killed[self._process.pid] = time.time()  # until now it may have written
            self._process.stdout.close()
            self._process = None


async def run(
    broker: Endpoint, store: Endpoint | None, folder: Path, *, seconds: float, seed: int, show: Callable[[str], None]
) -> Verdict:
    """Kill two workers in turns for some seconds, and judge."""
    dice, ledger = random.Random(seed), folder / "ledger"
    ledger.touch()
    async with AsyncExitStack() as exits:
        environment = os.environ | {
            "TASKCORE_URL": await _address(broker, folder, exits),
            "TASKCORE_LEASE": LEASE,
            "CODE_INDEX_CATALOGUE": str(folder / "catalogue.sqlite"),
        }  # fmt: skip
        if store is not None:
            environment["TASKCORE_STORE"] = await _address(store, folder, exits)
        environment |= _timetables(seconds)  # now that the servers are there, which may have taken a minute
        preview = await _ask(environment, "preview", ledger, seconds + SETTLING + 120)
        workers = [Worker(environment, ledger, folder / f"worker-{number}.log") for number in (1, 2)]
        try:
            for worker in workers:
                await worker.start()
            deaths, until = 0, time.time() + seconds
            while time.time() < until:
                await anyio.sleep(dice.uniform(*PAUSES))
                workers[deaths % 2].kill()
                await workers[deaths % 2].start()
                deaths += 1
                show(f"{deaths} workers killed, {max(until - time.time(), 0):.0f} s to go")
            await anyio.sleep(SETTLING)
            end = time.time() - SETTLING / 2
            records = await _ask(environment, "records", ledger)
        finally:
            for worker in workers:
                worker.kill()
        if broker.server is None:
            await _ask(environment, "clean", ledger)
    killed = {process: at for worker in workers for process, at in worker.killed.items()}
    return judge(preview, records, [*_ticks(ledger), *_upkeep(folder / "catalogue.sqlite")], killed, end)


def _timetables(seconds: float) -> dict[str, str]:
    """Let an hour and a night begin in the middle of the run, if a minute does."""
    now = datetime.now(UTC)
    middle = now + timedelta(seconds=seconds / 2 + 30)
    least, most = DECLARED_WITHIN
    return {
        "SCHEDULE_KILLS_BEGIN": (now + timedelta(seconds=min(max(seconds / 10, least), most))).isoformat(),
        "CODE_INDEX_HOURLY": f"{middle.minute} * * * *",
        "CODE_INDEX_NIGHTLY": f"{middle.minute} {middle.hour} * * *",
        "CODE_INDEX_ZONE": "UTC",
    }


async def _address(endpoint: Endpoint, folder: Path, exits: AsyncExitStack) -> str:
    if endpoint.server is None:
        return f"sqlite:///{folder}/records.db" if endpoint.url == "sqlite" else endpoint.url
    return (await exits.enter_async_context(endpoint.server)).url


async def _ask(environment: dict[str, str], role: str, ledger: Path, *arguments: float) -> Any:
    command = [*PROGRAM, role, str(ledger), *map(str, arguments)]
    answer = await anyio.run_process(command, cwd=ROOT, env=environment, stderr=None)
    return json.loads(answer.stdout or b"null")


def _ticks(ledger: Path) -> Iterator[Start]:
    for line in ledger.read_text().splitlines():
        schedule, at, began, process, job = line.split()
        yield Start(schedule, int(at), float(began), int(process), job)


def _upkeep(catalogue: Path) -> Iterator[Start]:
    """Read what the application itself noted."""
    if not catalogue.exists():
        return
    with closing(sqlite3.connect(catalogue)) as db:
        for what, instant, _, job, process, noted in db.execute("select * from upkeep"):
            at = round(datetime.fromisoformat(instant).timestamp() * 1000)
            yield Start(f"code-index-{what}", at, noted, process, job)
