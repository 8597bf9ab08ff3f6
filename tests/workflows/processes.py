"""Worker processes that a test starts and kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "Workers"]

ROOT = Path(__file__).parents[2]


class Workers:
    """Processes over one broker and one store.

    :param program: the module that each of them runs.
    """

    def __init__(self, program: str, url: str, store: str, ledger: Path) -> None:
        self._program = program
        self.where = (url, store, str(ledger))
        self.ledger = ledger
        self.alive: list[subprocess.Popen[str]] = []

    def start(self, *point: str) -> subprocess.Popen[str]:
        """Start one, and wait until it is ready."""
        command = [sys.executable, "-m", self._program, *self.where, *point]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.alive.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill one without a word."""
        process.kill()
        self.forget(process)

    def forget(self, process: subprocess.Popen[str]) -> int:
        """Wait for the end of one."""
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        self.alive.remove(process)
        return code

    def lines(self, first: str) -> list[list[str]]:
        """Read the lines of one kind in the ledger."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [rest for kind, *rest in lines if kind == first]
