"""The progress display: one line that changes on a terminal; plain lines, one for each scenario, anywhere else."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from typing import TextIO

from taskcore.bench.running import ProgressDisplay

__all__ = ["printed", "quiet_logs"]

BAR_WIDTH = 20  #: characters


def printed(stream: TextIO | None = None) -> ProgressDisplay:
    """Make a display on this stream, by default stderr."""
    out: TextIO = sys.stderr if stream is None else stream
    return _Changing(out) if out.isatty() else _Plain(out)


def quiet_logs() -> None:
    """Show only our own failures, because client libraries have much to say while a broker is killed on purpose."""
    logging.getLogger().addHandler(logging.NullHandler())
    own = logging.getLogger("taskcore.bench")
    own.addHandler(logging.StreamHandler(sys.stderr))
    own.propagate = False


class _Plain:
    """For logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begins(self, broker: str, scenario: str, done: int, all: int) -> None:
        """Do nothing: the line comes at the end."""

    def ends(self, broker: str, scenario: str, seconds: float, outcome: str) -> None:
        """Write one line."""
        print(f"{broker} · {scenario} · {seconds:.1f} s · {outcome}", file=self._stream, flush=True)


class _Changing:
    """For people: what is done scrolls by, what is under way stands below with a bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()

    def begins(self, broker: str, scenario: str, done: int, all: int) -> None:
        """Draw the bar."""
        full = BAR_WIDTH * done // max(all, 1)
        spent = int(time.monotonic() - self._start)
        bar = f"{'█' * full}{'░' * (BAR_WIDTH - full)}"
        self._write(f"{bar} {done}/{all}  {spent // 60}:{spent % 60:02}  {broker} · {scenario} …", end="")

    def ends(self, broker: str, scenario: str, seconds: float, outcome: str) -> None:
        """Write a line that stays, instead of the bar."""
        self._write(f"{broker:10} {scenario:14} {seconds:5.1f} s  {outcome}", end="\n")

    def _write(self, text: str, end: str) -> None:
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r\033[K{text[: width - 1]}{end}")
        self._stream.flush()
