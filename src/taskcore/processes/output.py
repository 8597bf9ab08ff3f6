"""The output of a process as lines that a log can take: bounded, and without control characters. No input here."""

from __future__ import annotations

from collections.abc import Iterator

from taskcore.toolkit.logging import visible

__all__ = ["LineSplitter"]

LONGEST_LINE = 8_192  #: bytes of a line that are kept


class LineSplitter:
    """Bytes in any portions to lines; holds at most one line, of which it keeps the beginning."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that these bytes complete; empty ones are left out."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._add(end)
            yield from self.flush()
        self._add(rest)

    def flush(self) -> Iterator[str]:
        """Yield what is held of a line that has no end yet."""
        if self._kept:
            cut = f"… and {self._cut} bytes more" if self._cut else ""
            text = visible(self._kept.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
            self._kept.clear()
            self._cut = 0
            if text:
                yield text + cut

    def _add(self, data: bytes) -> None:
        room = LONGEST_LINE - len(self._kept)
        self._kept += data[:room]
        self._cut += max(len(data) - room, 0)
