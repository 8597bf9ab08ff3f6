"""What a supervisor and its worker processes tell each other: one JSON object a line, over a socket pair.

The supervisor sends orders, a worker process sends reports. The end of the stream means that the other one is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

__all__ = ["REPORT_EVERY", "LineReader", "Order", "WorkerReport", "read_order", "read_report", "write_line"]

REPORT_EVERY: Final = 0.5  #: seconds between two reports of a worker process

#: retire: finish what runs, however long it takes. stop: finish it within the grace. interrupt: give it back now.
Order: TypeAlias = Literal["retire", "stop", "interrupt"]


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process says about itself; its event loop has to turn for that.

    :param ready: it is connected and asks for jobs.
    :param running: how many functions run.
    :param utilisation: the busy part, from 0 to 1: of its slots or of a core, whichever is larger.
    :param ended: how many jobs have ended in it.
    :param memory: the bytes that it occupies; 0 where the system does not tell.
    :param leaked: the threads that run functions whose jobs have ended; see :class:`LeakedThreads`.
    :param counters: how often each event has happened in it.
    """

    ready: bool = False
    running: int = 0
    utilisation: float = 0.0
    ended: int = 0
    memory: int = 0
    leaked: int = 0
    counters: Mapping[str, int] = {}


read_order = msgspec.json.Decoder(Order).decode
read_report = msgspec.json.Decoder(WorkerReport).decode


def write_line(message: Any) -> bytes:
    """Make the line of a message."""
    return msgspec.json.encode(message) + b"\n"


class LineReader:
    """Splits a stream into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from lines
