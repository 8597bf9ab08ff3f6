"""WorkerProcess: a worker as a real process, which a test may kill, freeze, or let die at a crash point.

    async with WorkerProcess("worker.py", url, folder=tmp_path) as worker:      python worker.py <url>
        await worker.says("ready")
        worker.kill()                                                           kill -9
    history = History.load([worker.history, …])

The script is the test's own; :mod:`taskcore.faults.crash` has the two lines by which it gets crash points and
its history file. Times in histories of several processes are ``time.time()``, the same clock for all of one machine.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import anyio

from taskcore.faults.child import Child
from taskcore.faults.crash import CRASH_AT, CRASHED, HISTORY, WHO
from taskcore.testing.history import History

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """One child that works. Inside of the context it runs; afterwards it does not, whatever happened.

    :param script: a Python file; it is run by the same Python as the test, as ``python script *args``.
    :param folder: where its output and its history file go.
    :param who: its name, in its history and in file names.
    :param crash_at: the crash point at which it ends, as with ``kill -9``; at the ``nth`` visit of it.
    :param environment: variables besides those of the test.
    :param history: the test's own history; the child's death is recorded there.
    """

    def __init__(
        self,
        script: str | Path,
        *args: object,
        folder: str | Path,
        who: str = "worker",
        crash_at: str | None = None,
        nth: int = 1,
        environment: Mapping[str, str] | None = None,
        history: History | None = None,
    ) -> None:
        folder = Path(folder).absolute()
        self.who = who
        self.history = folder / f"{who}.jsonl"  #: the file that ``History.load`` reads
        self._test_history = history
        wishes = {HISTORY: str(self.history), WHO: who, "PYTHONUNBUFFERED": "1"}
        if crash_at is not None:
            wishes[CRASH_AT] = f"{crash_at}:{nth}"
        self._output = folder / f"{who}.log"
        self._child = Child(
            [sys.executable, str(Path(script).absolute()), *map(str, args)],
            output=self._output,
            environment={**os.environ, **wishes, **(environment or {})},
            folder=folder,
        )

    async def __aenter__(self) -> Self:
        """Start it; it may not be ready yet, see ``says``."""
        self._child.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        error = exc[1]
        if isinstance(error, BaseException):
            error.add_note(f"the end of the output of {self.who} (status {self.status}):\n{self.output()}")
        if self._child.running:
            self.kill()
        self._child.kill()  # what it started may still be there

    # ── what a test does to it ──

    def kill(self) -> None:
        """Kill it (SIGKILL), and everything that it started."""
        self._record_death("killed")
        self._child.kill()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay open, its leases run out."""
        self._child.pause()

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._child.resume()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        self._child.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal of the test's own choice."""
        self._child.send(number)

    # ── what a test asks ──

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """None while it runs; its exit status, or minus the number of the signal that ended it."""
        return self._child.status

    @property
    def crashed(self) -> bool:
        """Whether it ended at its crash point."""
        return self.status == CRASHED

    async def wait(self, within: float = 20.0) -> int:
        """Return its exit status, as soon as it has one.

        :raises TimeoutError: it still runs after so many seconds; the text has the end of its output.
        """
        status = await self._child.wait(within)
        if status == CRASHED:
            self._record_death("crashed")
        return status

    async def says(self, text: str, *, within: float = 20.0) -> None:
        """Wait until its output contains a text.

        :raises TimeoutError: it does not after so many seconds; the error has the end of its output.
        :raises RuntimeError: it ended without saying so; with the end of its output.
        """
        with anyio.move_on_after(within):
            while text not in self.output(lines=10_000):
                if not self._child.running and text not in self.output(lines=10_000):
                    raise RuntimeError(f"{self.who} ended without saying {text!r}; its output:\n{self.output()}")
                await anyio.sleep(0.02)
            return
        raise TimeoutError(f"{self.who} did not say {text!r} within {within:g} s; its output:\n{self.output()}")

    def output(self, lines: int = 30) -> str:
        """Return the last lines of its output."""
        return self._child.tail(lines)

    def _record_death(self, how: str) -> None:
        if self._test_history is not None:
            self._test_history.record("died", "", who=self.who, how=how)
