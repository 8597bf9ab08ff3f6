"""systemd learns of readiness, of life and of the end, over its socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskcore.supervisor import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Listen as systemd does."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        yield listener, address


def _read(listener: socket.socket) -> list[str]:
    listener.setblocking(False)
    said = []
    while True:
        try:
            said.append(listener.recv(100).decode())
        except BlockingIOError:
            return said


def test_ready_once_and_signs_of_life(systemd):
    """READY=1 comes once, WATCHDOG=1 as often as the process is live, and never while it is not."""
    listener, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.pause == 1.0
    notifier.tell_health(live=True, ready=False)
    assert _read(listener) == ["WATCHDOG=1"]
    notifier.tell_health(live=True, ready=True)
    notifier.tell_health(live=True, ready=True)
    notifier.tell_health(live=False, ready=False)
    assert _read(listener) == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def test_no_watchdog(systemd):
    """Without a watchdog, or with that of another process, there are no signs of life."""
    listener, address = systemd
    for variables in ({}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "never"}):
        notifier = Notifier({"NOTIFY_SOCKET": address, **variables})
        assert notifier.pause is None
        notifier.tell_health(live=True, ready=False)
    assert _read(listener) == []


def test_no_systemd():
    """Where nothing listens, nothing is sent and nothing fails."""
    Notifier({}).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).tell("READY=1")


def test_an_abstract_address():
    """An address that begins with @ is in the kernel's own name space."""
    name = f"taskcore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("STOPPING=1")
        assert listener.recv(100) == b"STOPPING=1"
