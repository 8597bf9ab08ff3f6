"""What all peers share: the job that is measured, and the roles that a peer's file can play in its own environment.

    send      enqueue, one after another and in bulk, for so many seconds
    fill      enqueue so many jobs
    arrive    enqueue at fixed times (open loop)
    trips     enqueue and wait for results

The process that works is started with the peer's own command line and imports the same file. This file, ``tally.py``
and ``ledger.py`` know the standard library only, because every peer has an environment of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "src" / "taskcore" / "bench"
CHUNK = 1_000  #: jobs of one bulk call
SPIN = 0.0004  #: seconds spent looking at the clock, because waking up takes time
SLEEP = 0.05  #: seconds that a job takes while workers are killed


@dataclass(frozen=True)
class Peer:
    """A library that is measured.

    :param requirements: what pip (or npm) installs.
    :param command: its worker; ``{python}``, ``{queue}``, ``{url}`` and ``{work}``, its folder, are filled in.
    :param slots: how many jobs it runs at once with these settings.
    :param settings: what was set, for the report.
    :param source: where its documentation recommends that.
    :param guarantee: its durability class with these settings.
    """

    name: str
    package: str
    requirements: Sequence[str]
    brokers: Sequence[str]
    command: Sequence[str]
    slots: int
    settings: str
    source: str
    guarantee: str = "at least once: acknowledged after the run"
    tool: str = "pip"


class Adapter:
    """What a peer's file implements. All of it may block: nothing else runs in this process."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def one(self, data: str) -> None:
        """Enqueue one job; returns when the broker has it."""
        raise NotImplementedError

    async def many(self, batch: Sequence[str]) -> None:
        """Enqueue many, in the fastest way that its documentation knows: here from a hundred places at once."""
        waiting = list(reversed(batch))

        async def some() -> None:
            while waiting:
                await self.one(waiting.pop())

        await asyncio.gather(*(some() for _ in range(100)))

    async def trip(self, data: str) -> None:
        """Enqueue one job and wait for its result."""
        raise NotImplementedError

    async def trips(self, batch: Sequence[str]) -> None:
        """Enqueue many jobs at once, and wait for all their results."""
        await asyncio.gather(*(self.trip(data) for data in batch))


# ── what the environment says ────────────────────────────────────────────────────────────────────

URL = os.environ.get("BENCH_URL", "")
BROKER = os.environ.get("BENCH_BROKER", "redis")
QUEUE = os.environ.get("BENCH_QUEUE", "bench")
RESULTS = os.environ.get("BENCH_RESULTS", "")  #: the URL of a Redis for results; empty: none are kept
LEASE = float(os.environ.get("BENCH_LEASE", "0"))  #: seconds after which a dead worker's job is to be handed out again


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{BENCH / name}.py is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tally_module, ledger_module = _load("tally"), _load("ledger")
payload = tally_module.payload
tally = tally_module.Tally(timed=os.environ.get("BENCH_MODE") == "timed")
_ledger = ledger_module.JobLedger(os.environ["BENCH_LEDGER"]) if os.environ.get("BENCH_LEDGER") else None
_watched = False


# ── the job ──────────────────────────────────────────────────────────────────────────────────────


def job(data: str) -> int:
    """Do what a plain function does."""
    if not _watched:
        _watch()
    if _ledger is not None:
        number = tally_module.number_of(data)
        _ledger.write("start", number)
        time.sleep(SLEEP)
        _ledger.write("end", number)
    tally.mark(data)
    return len(data)


async def ajob(data: str) -> int:
    """Do what a coroutine function does."""
    if not _watched:
        _watch()
    if _ledger is not None:
        number = tally_module.number_of(data)
        _ledger.write("start", number)
        await asyncio.sleep(SLEEP)
        _ledger.write("end", number)
    tally.mark(data)
    return len(data)


def _watch() -> None:
    """Start a thread that tells the count, and on demand the report, in the process that really runs jobs."""
    global _watched  # noqa: PLW0603
    _watched = True
    report = os.environ.get("BENCH_REPORT")
    if report:
        threading.Thread(target=_pulse, args=(Path(report),), daemon=True).start()


def _pulse(report: Path) -> None:
    written = 0
    while True:
        if len(tally.numbers) != written:
            written = len(tally.numbers)
            tally.pulse(report.with_suffix(".count"))
        if report.with_suffix(".ask").exists() and not report.exists():
            tally.write(report)
        time.sleep(tally_module.POLL_SECONDS)


# ── the roles ────────────────────────────────────────────────────────────────────────────────────


def main(module: str) -> None:
    """Play the role that the command line names, with the adapter of this module."""
    adapter = importlib.import_module(module).Adapter()
    asyncio.run(_play(ROLES[sys.argv[1]], adapter, json.loads(sys.argv[2])))


async def _play(role: Any, adapter: Adapter, parameters: dict[str, Any]) -> None:
    await adapter.open()
    try:
        answer = await role(adapter, **parameters)
    finally:
        await adapter.close()
    print("ANSWER", json.dumps(answer), flush=True)


async def send(adapter: Adapter, *, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure the jobs a second, one after another and in bulk."""
    one, many = [], []
    await adapter.many([payload(0)] * 100)
    for _ in range(rounds):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            await adapter.one(payload(0))
            count += 1
        one.append(count / (time.perf_counter() - start))
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            await adapter.many([payload(0)] * CHUNK)
            count += CHUNK
        many.append(count / (time.perf_counter() - start))
    return {"one": one, "many": many}


async def fill(adapter: Adapter, *, jobs: int) -> None:
    """Enqueue so many jobs."""
    for first in range(0, jobs, CHUNK):
        await adapter.many([payload(number) for number in range(first, min(first + CHUNK, jobs))])


async def arrive(adapter: Adapter, *, rate: float, jobs: int) -> None:
    """Enqueue jobs at fixed times; a sender that is late does not change when a job was due."""
    start = time.monotonic() + 0.1
    for number in range(jobs):
        due = start + number / rate
        await asyncio.sleep(max(due - time.monotonic() - 0.0015, 0.0))
        time.sleep(max(due - time.monotonic() - SPIN, 0.0))
        while time.monotonic() < due:
            pass
        await adapter.one(payload(number, due=due))


async def trips(adapter: Adapter, *, seconds: float) -> dict[str, Any] | None:
    """Measure round trips: milliseconds of single ones, and how many a second from a hundred places."""
    single: list[float] = []
    try:
        for _ in range(5):
            await adapter.trip(payload(0))
    except NotImplementedError:
        return None
    start = time.perf_counter()
    while time.perf_counter() - start < seconds and len(single) < 300:
        before = time.perf_counter()
        await adapter.trip(payload(0))
        single.append((time.perf_counter() - before) * 1e3)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        await adapter.trips([payload(0)] * 100)
        count += 100
    return {"ms": single, "rate": count / (time.perf_counter() - start)}


ROLES = {"send": send, "fill": fill, "arrive": arrive, "trips": trips}
