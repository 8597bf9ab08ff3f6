"""A supervisor stops whatever its processes are doing: connecting, waiting for a lost broker, or for a retry (C21)."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import anyio
import pytest

from taskcore.faults import RedisServer
from tests.support.command import eventually, is_running
from tests.support.real import require

pytestmark = pytest.mark.timeout(120)

FAILING = """
from pathlib import Path

from taskcore import App, Retry

app = App.from_config()


@app.task(name="fail", retry=Retry(attempts=5, base=60.0, jitter="none"))
async def fail() -> None:
    Path(__file__).with_name("done").write_text("began\\n")
    raise RuntimeError("on purpose")
"""


@pytest.fixture
def silent() -> Iterator[int]:
    """Listen on a port, accept, and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_while_connecting(alone, silent):
    """A process that still connects has nothing in hand: it ends at once."""
    with alone.run("--processes", "2", TASKCORE_URL=f"redis://127.0.0.1:{silent}/0") as command:
        command.wait_for("queues ")
        time.sleep(1.5)
        command.signal()
        began = time.monotonic()
        assert command.end(15) in {0, 4}  # 4: its patience was over before the signal came
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("whole_group", [False, True], ids=["Kubernetes", "systemd's default"])
def test_while_the_broker_is_down(alone, whole_group):
    """Idle processes whose broker is away end at once, whether the signal reaches the supervisor alone or all."""

    async def main() -> None:
        async with require(RedisServer)() as server:
            with alone.run("--processes", "2", TASKCORE_URL=server.url) as command:
                await anyio.to_thread.run_sync(command.wait_ready, 2)
                server.kill()
                await anyio.to_thread.run_sync(command.wait_for, "broker lost")
                began = time.monotonic()
                if whole_group:
                    command.signal_group(signal.SIGTERM)
                else:
                    command.signal()
                assert await anyio.to_thread.run_sync(command.end) == 0
                assert time.monotonic() - began < 12
                assert not any(map(is_running, command.pids()))

    anyio.run(main)


def test_while_retries_wait(project):
    """A job that waits for its next attempt is in the broker's hands: nothing holds up the end."""
    (project.directory / "shop.py").write_text(FAILING)
    with project.run("--processes", "2") as command:
        command.wait_ready(2)
        project.send("fail", {})
        eventually(lambda: project.lines("began"))
        time.sleep(1.0)
        began = time.monotonic()
        command.signal()
        assert command.end(15) == 0
        assert time.monotonic() - began < 8

    assert "1 retried" in command.said


def test_a_blocked_process_ends_after_its_supervisor(project):
    """When the supervisor is gone while a loop is blocked, the process ends after its grace all the same."""
    with project.run("--processes", "1", "--grace", "0.1s") as command:
        [pid] = command.wait_ready(1)
        project.send("block", {"seconds": 60.0})
        eventually(lambda: project.lines("began"))
        os.kill(command.process.pid, signal.SIGKILL)
        eventually(lambda: not is_running(pid), 25, what="the end of the blocked process")
