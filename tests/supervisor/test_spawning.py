"""How a worker process gets its end of the line: a descriptor, or where sockets are shared otherwise, as on Windows."""

from __future__ import annotations

import io
import socket
import sys
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from taskcore.supervisor import spawning
from taskcore.supervisor.messages import LineReader, WorkerReport, read_report, write_line


@pytest.fixture
def anyio_backend() -> str:
    """Start processes on asyncio, as a supervisor does."""
    return "asyncio"


async def test_a_shared_socket_goes_over_standard_input(monkeypatch, anyio_backend):
    """Where sockets are shared by bytes, those bytes come over standard input, and no descriptor is inherited."""
    started: dict[str, Any] = {}
    sent: list[bytes] = []

    async def open_process(command, **options):
        started.update(options, command=command)

        async def send(data):
            sent.append(data)

        async def aclose():
            sent.append(b"closed")

        return SimpleNamespace(pid=4711, stdin=SimpleNamespace(send=send, aclose=aclose))

    monkeypatch.setattr(anyio, "open_process", open_process)
    monkeypatch.setattr(socket.socket, "share", lambda self, pid: f"{pid} {self.fileno() > 0}".encode(), raising=False)
    process, ours = await spawning.start(["shop:app"])
    ours.close()

    assert process.pid == 4711
    assert started["command"][-2:] == ["--supervised", "stdin"]
    assert "pass_fds" not in started
    assert sent == [b"4711 True", b"closed"]


def test_a_shared_socket_is_opened_from_standard_input(monkeypatch):
    """The process opens what came over its standard input."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket, "fromshare", {b"the shared socket": theirs}.get, raising=False)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the shared socket")))
    with ours, theirs:
        assert spawning.adopt(spawning.BY_STDIN) is theirs


def test_a_descriptor_is_not_inherited_further():
    """The programs that jobs start do not get the line to the supervisor."""
    ours, theirs = socket.socketpair()
    with ours, spawning.adopt(str(theirs.detach())) as adopted:
        assert not adopted.get_inheritable()
        ours.send(b"x")
        assert adopted.recv(1) == b"x"


def test_lines_come_whole():
    """A report that comes in pieces is read when it is complete."""
    report = WorkerReport(ready=True, running=3, counters={"job.started": 7})
    data, lines = write_line(report) * 2, LineReader()
    found = [read_report(line) for byte in data for line in lines.feed(bytes([byte]))]
    assert found == [report, report]
