"""Leaked threads: functions that run on although their jobs have ended, such as by a time limit.

A thread cannot be killed, so each of them takes memory, and perhaps a connection or a lock, until its process ends. A
function that overruns its time and returns a moment later is no leak: what counts is the smallest number that was seen
for a while.
"""

from __future__ import annotations

from collections import deque

__all__ = ["LeakedThreads", "leaked_text"]

LOOKS_IN_A_ROW = 4  #: looks in a row that count


class LeakedThreads:
    """How many threads of a process have leaked."""

    def __init__(self) -> None:
        self._looks = deque([0] * LOOKS_IN_A_ROW, LOOKS_IN_A_ROW)

    def note(self, number: int) -> int:
        """Take in how many functions nothing waits for at this look; return the threads that have leaked."""
        self._looks.append(number)
        return min(self._looks)


def leaked_text(number: int) -> str:
    """Say that so many threads have leaked."""
    return f"{number} of its threads run functions whose jobs have ended"
