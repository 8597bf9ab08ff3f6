"""A progress bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

import anyio

__all__ = ["Progress"]

WORDS = 62  #: columns for everything but the bar
TICK = 0.1  #: seconds between two redraws
LINE_EVERY = 2.0  #: seconds between two lines, where the output is not a terminal


class Progress:
    """The progress of the index.

    :param total: how many files there are.
    :param quiet: count, but say nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.total = total
        self.done = 0
        self.dead = 0
        self.retries = 0
        self.timeline: list[tuple[float, int]] = [(0.0, 0)]
        self._quiet = quiet
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._full, self._empty, self._dot = _signs(self._stream)
        self._began = time.perf_counter()
        self._marks: list[tuple[int, anyio.Event]] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def finished(self, *, dead: bool) -> None:
        """Count one more file."""
        self.done += 1
        self.dead += dead
        for number, event in self._marks:
            if self.done >= number:
                event.set()

    async def reach(self, number: int) -> None:
        """Wait until so many files are done."""
        event = anyio.Event()
        self._marks.append((number, event))
        if self.done < number:
            await event.wait()

    def say(self, line: str) -> None:
        """Print a line for something that happened."""
        if not self._quiet:
            self._say(f"\r\x1b[K{line}" if self._is_terminal else line)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the progress while this context is open."""
        self._began = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(self._show)
            yield
            group.cancel_scope.cancel()

    async def _show(self) -> None:
        next_line = LINE_EVERY
        try:
            while True:
                await anyio.sleep(TICK)
                self.timeline.append((self.seconds, self.done))
                if self._quiet:
                    continue
                if self._is_terminal:
                    self._draw()
                elif self.seconds >= next_line:
                    self._say(self._words())
                    next_line = self.seconds + LINE_EVERY
        finally:
            self.timeline.append((self.seconds, self.done))
            if not self._quiet and self._is_terminal:
                self._draw()
                self._say("")
            elif not self._quiet:
                self._say(self._words())

    def _words(self) -> str:
        rate = self.done / max(self.seconds, TICK)
        counts = (f"{self.retries:,} retries", f"{self.dead:,} dead")
        return f" {self._dot} ".join((f"{self.done:,}/{self.total:,} files", f"{rate:,.0f}/s", *counts))

    def _draw(self) -> None:
        words = self._words()
        room = min(shutil.get_terminal_size().columns - WORDS, 40)
        share = self.done / max(self.total, 1)
        full = int(room * share)
        bar = f"{self._full * full}{self._empty * (room - full)} {share:4.0%}  " if room >= 10 else ""
        self._stream.write(f"\r{bar}{words}\x1b[K")
        self._stream.flush()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _signs(stream: TextIO) -> tuple[str, str, str]:
    """Return the characters of the bar; not every terminal can show all of them."""
    try:
        "━─·".encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return "#", "-", "|"
    return "━", "─", "·"
