"""What a job leaves behind does not keep the process of a worker that has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import WorkerCommand

SHOP = """
import asyncio, contextlib, threading, time
from contextlib import asynccontextmanager
from taskcore import App, Retry
from taskcore.worker import signals

signals.CLEANUP_TIMEOUT = 0.5
kept = []

@asynccontextmanager
async def send(app):
    await LEFT.enqueue()
    yield
    if LEFT is fails:
        raise RuntimeError("the end of the lifespan")

app = App("memory://", lifespan=send, grace=0.1)

@app.task
async def thread():
    threading.Thread(target=time.sleep, args=(60,), name="forgotten").start()

@app.task
async def task():
    async def insist():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    kept.append(asyncio.create_task(insist()))

@app.task
async def executor():
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)

@app.task(timeout=0.1, retry=Retry(attempts=1))
def leak():
    threading.Thread(target=time.sleep, args=(60,), name="forgotten", daemon=False).start()
    time.sleep(60)

@app.task
async def fails():
    threading.Thread(target=time.sleep, args=(60,), name="forgotten").start()

LEFT = {name}
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thread", "forgotten"),
        ("task", "has left a task that still runs: task.<locals>.insist"),
        ("executor", "asyncio_0"),
    ],
)
def test_the_process_ends_when_its_worker_has(tmp_path: Path, name: str, told: str) -> None:
    """The worker command ends with code 0 although a job has left something that runs on, and names it."""
    (tmp_path / "shop.py").write_text(SHOP.replace("{name}", name))
    with WorkerCommand.running(tmp_path, "shop:app", "--drain", "--loop", "asyncio") as command:
        assert command.end(within=20) == 0
    assert told in command.said
    assert "still running 0.5 s after the worker's end" in command.said


@pytest.mark.parametrize(
    ("name", "options", "code"), [("leak", ("--max-leaked-threads", "0"), 6), ("fails", ("--drain",), 1)]
)
def test_the_exit_code_says_why_the_worker_ended(
    tmp_path: Path, name: str, options: tuple[str, ...], code: int
) -> None:
    """A process that has to be ended has the exit code with which it would have ended by itself."""
    (tmp_path / "shop.py").write_text(SHOP.replace("{name}", name))
    with WorkerCommand.running(tmp_path, "shop:app", *options, "--loop", "asyncio") as command:
        assert command.end(within=20) == code
    assert "still running 0.5 s after the worker's end" in command.said
