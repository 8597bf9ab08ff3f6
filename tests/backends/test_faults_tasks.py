"""Functions, results, hooks and clocks that misbehave in real workers on real brokers: jobs end, workers live on."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App, Dead, DeadLetter, Expired, Succeeded
from taskcore.faults.processes import WorkerProcess
from tests.support.fault_tasks import RAISED, STORM, declare_faults
from tests.support.redis_play import Play, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

SCRIPT = Path(__file__).parents[1] / "support" / "fault_worker.py"


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


@asynccontextmanager
async def client_of(play: Play, **settings: Any) -> AsyncIterator[App]:
    """Open an app that sends, with the tasks that misbehave, too."""
    async with play.app("client", **settings) as app:
        declare_faults(app, play.history, play.queue, "client")
        yield app


@asynccontextmanager
async def worker_of(play: Play, folder: Path, who: str = "worker", **orders: Any) -> AsyncIterator[WorkerProcess]:
    """Run a worker process that has the tasks that misbehave; it is ready inside."""
    async with play.worker(folder, who, script=SCRIPT, **orders) as worker:
        await worker.says("ready")
        yield worker


async def letters_of(app: App, play: Play) -> dict[str, DeadLetter]:
    """Read the dead letters of the play's queue by their jobs' ids."""
    return {letter.job_id: letter async for letter in app.dead_letters.read(play.queue)}


# ── functions ────────────────────────────────────────────────────────────────────────────────────


async def test_errors_of_every_kind(play: Play, tmp_path: Path):
    """F11, F68: what a function raises is a failed attempt of its job, recorded within bounds; the worker lives on."""
    async with client_of(play) as app, worker_of(play, tmp_path) as worker:
        jobs = {kind: await app.tasks["raise"].enqueue(kind) for kind in (*RAISED, "RecursionError")}
        for job in jobs.values():
            assert isinstance(await job.outcome(timeout=20), Dead)
        assert await (await app.tasks["work"].enqueue(1)).result(timeout=10) == 1
        assert worker.status is None
        letters = await letters_of(app, play)
    assert set(letters) == {job.id for job in jobs.values()}
    for kind, job in jobs.items():
        errors = letters[job.id].trail.errors
        last = kind in {"SystemExit", "KeyboardInterrupt"}  # they say that the program shall end: never tried again
        assert [error.attempt for error in errors] == ([1] if last else [1, 2])
        recorded = "ValueError" if kind == "ExceptionGroup" else kind  # the error of the group that decides
        assert {error.type.rpartition(".")[2] for error in errors} == {recorded}
        assert all(len(error.message) <= 2_000 and len(error.traceback) <= 10_000 for error in errors)


@pytest.mark.parametrize("task", ["fork", "fork_in_thread"])
async def test_functions_that_fork(play: Play, tmp_path: Path, task: str):
    """F16: however the copy of the process ends, its job is settled once, by the worker, which lives on."""
    ways = ["_exit", "exit", "return", *(["wait"] if task == "fork" else [])]
    async with client_of(play) as app, worker_of(play, tmp_path, concurrency=1) as worker:
        children = [await (await app.tasks[task].enqueue(how)).result(timeout=10) for how in ways]
        jobs = await app.enqueue_many([app.tasks["work"].call(number) for number in range(5)])
        assert [await one.result(timeout=10) for one in jobs] == list(range(5))
        assert worker.status is None
        await play.check()
        assert [state_of(child) for child in children] == ["Z"] * len(ways)  # ended; the functions waited for none
    assert play.count("settled") == play.count("start") == len(ways) + 5


def state_of(pid: int) -> str:
    """Return the letter that the system has for the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
