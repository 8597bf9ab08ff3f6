"""Probes get a true answer: of one process, of several, of a blocked loop, of a broker that is away."""

from __future__ import annotations

import time

import anyio
import pytest

from taskcore.faults import RedisServer
from taskcore.faults.sockets import free_port
from tests.support.command import eventually, probe
from tests.support.real import require

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["alone", "supervised"])
def test_a_blocked_loop_is_not_live(project, processes):
    """Live while the loops turn, not while one is blocked, and live again afterwards."""
    port = free_port()
    with project.run("--health", f"127.0.0.1:{port}", *processes) as command:
        eventually(lambda: probe(port) == 200, what="ready")
        assert probe(port, "/live?within=1s") == 200
        project.send("block", {"seconds": 6.0})
        eventually(lambda: project.lines("began"))
        eventually(lambda: probe(port, "/live?within=1s") == 503, 6.0, what="not live")
        assert probe(port, "/live?within=1m") == 200
        eventually(lambda: probe(port, "/live?within=1s") == 200, what="live again")
        assert probe(port, "/elsewhere") == 404
        assert probe(port, "/live?within=soon") == 400
        command.signal()
        assert command.end() == 0


@pytest.mark.parametrize("processes", [[], ["--processes", "1"]], ids=["alone", "supervised"])
def test_a_lost_broker_makes_it_not_ready(project, processes):
    """Ready is connected and receiving: not while the broker is away, though the process is live; and again after."""
    port = free_port()

    async def main() -> None:
        async with require(RedisServer)() as server:
            with project.run("--health", f"127.0.0.1:{port}", *processes, TASKCORE_URL=server.url):
                await anyio.to_thread.run_sync(lambda: eventually(lambda: probe(port) == 200, what="ready"))
                server.kill()
                await anyio.to_thread.run_sync(lambda: eventually(lambda: probe(port) == 503, what="not ready"))
                assert probe(port, "/live") == 200
                await server.restart()
                await anyio.to_thread.run_sync(lambda: eventually(lambda: probe(port) == 200, what="ready again"))

    anyio.run(main)


def test_two_supervisors_on_one_port(alone):
    """The second one ends at once with an error that names the port."""
    port = free_port()
    with alone.run("--processes", "1", "--health", f"127.0.0.1:{port}") as first:
        first.wait_ready(1)
        with alone.run("--processes", "1", "--health", f"127.0.0.1:{port}") as second:
            assert second.end() == 2
        assert probe(port) == 200

    assert f"error[TC104]: --health 127.0.0.1:{port}: cannot listen there: Address already in use" in second.said


@pytest.mark.parametrize("processes", [[], ["--processes", "1"]], ids=["alone", "supervised"])
def test_the_health_file(alone, processes):
    """The file says ready, stays young, and is gone at the end."""
    file = alone.directory / "health"
    with alone.run("--health-file", str(file), *processes) as command:
        eventually(lambda: file.exists() and file.read_text().startswith("ready"), what="ready")
        before = file.stat().st_mtime
        eventually(lambda: file.stat().st_mtime > before, what="renewed")
        assert time.time() - file.stat().st_mtime < 10
        command.signal()
        assert command.end() == 0

    assert not list(alone.directory.glob("health*"))


def test_a_health_file_that_cannot_be_written(alone):
    """The command ends with an error instead of running without a probe."""
    with alone.run("--health-file", "/nowhere/health") as command:
        assert command.end() == 2

    assert "error[TC104]: --health-file /nowhere/health: No such file or directory" in command.said
