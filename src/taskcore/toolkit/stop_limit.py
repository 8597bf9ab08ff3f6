"""The limit of a stop: ends the process when stopping takes too long, whatever its code does.

A function may ignore its cancellation, never return from C code, or block the event loop; nothing in the loop can end
the process then. A thread does, and its messages come through a queue that a handler of signals may write to.
"""

from __future__ import annotations

import math
import os
import threading
import time
from queue import Empty, SimpleQueue
from typing import Literal

from taskcore.toolkit.logging import logger

__all__ = ["INTERRUPTED", "StopLimit"]

log = logger("taskcore.worker")

INTERRUPTED = 130  #: exit code of a process that got three signals
LAST_WORDS = 0.5  #: seconds for the log to take a line
LAST_SIGNAL = 3  #: the first asks for the end, the second insists, the third is this one


class StopLimit:
    """Ends the process so many seconds after a stop has begun, or at the third signal, unless it is lifted.

    Its methods may be called in any thread, and in handlers of signals.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf
        self._signals = 0
        self._messages: SimpleQueue[Literal["begin", "kill", "lift"]] = SimpleQueue()
        threading.Thread(target=self._watch, name="taskcore-stop", daemon=True).start()

    def begin(self) -> None:
        """Begin to count the seconds, if they are not counted yet."""
        self._messages.put("begin")

    def note_signal(self) -> None:
        """Begin at the first signal, and end the process at the third."""
        self._signals += 1
        self._messages.put("kill" if self._signals >= LAST_SIGNAL else "begin")

    def lift(self) -> float:
        """Let the process live, because the stop is over; return the seconds that were left."""
        self._messages.put("lift")
        return self._left()

    def _left(self) -> float:
        return max(self._until - time.monotonic(), 0.0)

    def _watch(self) -> None:
        message = ""
        while message not in ("lift", "kill"):
            left = None if self._until == math.inf else min(self._left(), threading.TIMEOUT_MAX)
            try:
                message = self._messages.get(timeout=left)
            except Empty:
                what = "still running %g s after the order to stop: ending the process at once; its leases run out"
                _end(1, what, self._seconds)
            self._until = min(self._until, time.monotonic() + self._seconds)
        if message == "kill":
            _end(INTERRUPTED, "a third signal: ending the process at once; its leases run out")


def _end(code: int, what: str, *facts: object) -> None:
    """Say why, and end; a log that hangs, because a job keeps its lock or its pipe is full, holds up nothing."""
    saying = threading.Thread(target=log.error, args=(what, *facts), daemon=True)
    saying.start()
    saying.join(LAST_WORDS)
    os._exit(code)
