"""Child: a process that a test starts, watches, mistreats, and never leaves behind.

It runs in a process group of its own, so whatever it starts dies with it. A guard, a second and tiny process, waits for
the end of a pipe that only we hold: if the test itself is killed, even with SIGKILL, the guard kills the group and
removes its folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

__all__ = ["Child"]

GUARD = """
import os, shutil, signal, sys
sys.stdin.buffer.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
if sys.argv[2]:
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""
POLL_SECONDS = 0.01  #: seconds between two checks whether a process has ended, or has stopped
STOPS_WITHIN = 1.0  #: seconds that a frozen process may take to stop


class Child:
    """One process and its output. POSIX only.

    :param argv: the command.
    :param output: a file to which both its output streams are appended.
    :param environment: all of its environment.
    :param folder: its working directory.
    :param temporary: a folder that the guard removes if we are killed.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        output: Path,
        environment: Mapping[str, str],
        folder: Path,
        temporary: Path | None = None,
    ) -> None:
        self._argv = [str(part) for part in argv]
        self._output = output
        self._environment = dict(environment)
        self._folder = folder
        self._temporary = temporary
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once.

        :raises OSError: the command cannot be run.
        """
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a test's own command
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                process_group=0,
            )
        self._guard = subprocess.Popen(  # noqa: S603 - as above
            [sys.executable, "-IS", "-c", GUARD, str(self._process.pid), str(self._temporary or "")],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id, and the id of its group.

        :raises LookupError: it was never started.
        """
        if self._process is None:
            raise LookupError("this process was never started")
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs; its exit status, or minus the number of the signal that ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended. A paused process is running."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to its whole group."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def pause(self) -> None:
        """Freeze its group (SIGSTOP); returns when it has really stopped.

        A process that is just starting another one by vfork counts as stopped, though the system says that it waits:
        it does so until the new one goes on, which is frozen, too.
        """
        self.send_all(signal.SIGSTOP)
        if not hasattr(os, "waitid"):
            return
        for _ in range(round(STOPS_WITHIN / POLL_SECONDS)):
            if not self.running or os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG):
                return
            time.sleep(POLL_SECONDS)

    def resume(self) -> None:
        """Let its group go on (SIGCONT)."""
        self.send_all(signal.SIGCONT)

    async def wait(self, within: float) -> int:
        """Return its exit status, as soon as it has one.

        :raises TimeoutError: it still runs after so many seconds; the text has the end of its output.
        """
        with anyio.move_on_after(within):
            while (status := self.status) is None:  # noqa: ASYNC110 - a process has no event
                await anyio.sleep(POLL_SECONDS)
            return status
        raise TimeoutError(f"{self._argv[0]} still runs after {within:g} s; the end of its output:\n{self.tail()}")

    def kill(self) -> None:
        """End it and everything that it started, now, with SIGKILL; then the guard is not needed any more."""
        self.send_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of its output."""
        text = self._output.read_text(errors="replace") if self._output.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(no output)"

    def forget(self) -> None:
        """Kill it and remove its temporary folder."""
        self.kill()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
