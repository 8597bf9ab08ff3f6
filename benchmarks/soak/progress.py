"""The progress: one line that changes on a terminal, a plain line now and then anywhere else; both on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

__all__ = ["Progress"]

PLAIN_EACH = 20.0  #: seconds between two plain lines


class Progress:
    """Shows how far a run is."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out: TextIO = sys.stderr if stream is None else stream
        self._is_terminal = self._out.isatty()
        self._began = time.monotonic()
        self._last = 0.0

    def show(self, what: str, *, always: bool = False) -> None:
        """Show what is going on; on a stream that is no terminal only now and then, unless ``always``."""
        spent = time.monotonic() - self._began
        text = f"{int(spent) // 60}:{int(spent) % 60:02}  {what}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            self._out.write(f"\r\033[K{text[: width - 1]}")
        elif always or spent - self._last >= PLAIN_EACH:
            self._last = spent
            self._out.write(f"{text}\n")
        self._out.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._is_terminal:
            self._out.write("\r\033[K")
            self._out.flush()
