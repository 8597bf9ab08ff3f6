"""`taskcore worker` as a running command: read what it says, send it signals, look at its processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.support.shell import environment

__all__ = ["WorkerCommand", "eventually", "is_running", "probe"]

PATIENCE = 30.0  #: seconds for anything to happen on a busy machine


def eventually(holds: Callable[[], object], within: float = PATIENCE, what: str = "") -> None:
    """Wait until something holds, and fail if it does not in time."""
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, f"not within {within} s: {what}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that waits for its parent to read its end has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def probe(port: int, path: str = "/ready") -> int:
    """Ask for health; 0 if nothing answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


class WorkerCommand:
    """One run of the command; ``said`` grows while it runs."""

    def __init__(self, directory: Path, *arguments: str, program: str = "-mtaskcore", **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, program, "worker", *arguments],
            cwd=directory,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self._lines.extend(iter(self.process.stdout.readline, ""))

    @classmethod
    @contextmanager
    def running(cls, directory: Path, *arguments: str, **more: str) -> Iterator[WorkerCommand]:
        """Run one for as long as the context lasts; nothing of it is left then."""
        command = cls(directory, *arguments, **more)
        try:
            yield command
        finally:
            for pid in (command.process.pid, *command.pids()):
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)
            command.process.wait()
            command._reader.join()
            command.process.stdout.close()

    @property
    def said(self) -> str:
        """All that it and its processes have written."""
        return "".join(list(self._lines))

    def pids(self) -> list[int]:
        """Return the processes that have become ready, in that order, also those that have ended."""
        return [int(pid) for pid in re.findall(r"process (\d+) is ready", self.said)]

    def alive(self) -> list[int]:
        """Return the processes that run."""
        return [pid for pid in self.pids() if is_running(pid)]

    def wait_for(self, text: str, within: float = PATIENCE) -> None:
        """Wait until it has said this."""
        until = time.monotonic() + within
        while text not in self.said:
            assert time.monotonic() < until, f"not said within {within} s: {text}\n{self.said}"
            time.sleep(0.02)

    def wait_ready(self, number: int) -> list[int]:
        """Wait until so many processes run; return them."""
        eventually(lambda: len(self.alive()) >= number, what=f"{number} processes")
        return self.alive()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal as a terminal does: to the command and all its processes."""
        os.killpg(self.process.pid, number)

    def end(self, within: float = PATIENCE) -> int:
        """Wait for the end; return the exit code, and leave what was said where a failed test shows it."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s:\n{self.said}") from None
        self._reader.join(within)
        print(self.said)  # noqa: T201 - pytest shows it beside the failure
        return code
