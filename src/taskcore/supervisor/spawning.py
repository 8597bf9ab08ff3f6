"""Starting a worker process, and giving it its end of a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.abc

__all__ = ["NOTIFY_VARIABLES", "adopt", "release_interrupts", "start"]

BY_STDIN = "stdin"  #: instead of a descriptor: the socket comes over standard input, as Windows shares sockets
NOTIFY_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  #: systemd talks to the supervisor alone


async def start(arguments: Sequence[str]) -> tuple[anyio.abc.Process, socket.socket]:
    """Start ``taskcore worker`` with these arguments; return the process and the supervisor's end."""
    ours, theirs = socket.socketpair()
    try:
        if hasattr(theirs, "share"):
            process = await _open([*arguments, "--supervised", BY_STDIN], stdin=subprocess.PIPE)
            assert process.stdin is not None  # noqa: S101 - it was asked for
            await process.stdin.send(theirs.share(process.pid))
            await process.stdin.aclose()
        else:
            number = theirs.fileno()
            process = await _open([*arguments, "--supervised", str(number)], pass_fds=[number])
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)  # noqa: FBT003 - the standard library's
    return process, ours


async def _open(arguments: Sequence[str], **options: Any) -> anyio.abc.Process:
    command = [sys.executable, "-P", "-m", "taskcore", "worker", *arguments]
    options = {"stdin": subprocess.DEVNULL, "stdout": None, "stderr": None, "env": _variables()} | options
    with _interrupts_held():
        return await anyio.open_process(command, **options)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start programs that hold back Ctrl-C until ``release_interrupts``: its default is a traceback in an import."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_interrupts() -> None:
    """Receive Ctrl-C from now on, and what was held back, because a handler of the worker is installed."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _variables() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NOTIFY_VARIABLES}


def adopt(given: str) -> socket.socket:
    """Open the worker process's end, from what ``--supervised`` was given."""
    if given == BY_STDIN:
        from_share: Any = getattr(socket, "fromshare")  # noqa: B009 - it exists on Windows only
        shared: socket.socket = from_share(sys.stdin.buffer.read())
        return shared
    ours = socket.socket(fileno=int(given))
    ours.set_inheritable(False)
    return ours
