"""Where a thread is: the line that blocks an event loop."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType
from typing import Final

__all__ = ["blocking_place"]

#: The functions in which an event loop turns; what stands further out is the program around the loop.
TURNS: Final = frozenset({"_run_once", "run_forever", "run_until_complete", "unrolled_run", "run"})
LOOPS: Final = frozenset({"asyncio", "trio", "uvloop", "anyio"})
PURE, PLATFORM = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
STANDARD: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
OURS: Final = str(PurePath(__file__).parents[1])


def blocking_place(thread: int) -> str:
    """Find the line at which the code of a task is, in the thread of an event loop: ``report.py:88``.

    The innermost line of the program itself; in a library, if the task belongs to one. Empty if the loop only waits.
    """
    best, rank = "", 0
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the one way to see another thread
    for each in _in_tasks(frame):
        found = _rank(each.f_code.co_filename)
        if found > rank:
            best, rank = f"{PurePath(each.f_code.co_filename).name}:{each.f_lineno}", found
    return best


def _in_tasks(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames inside of the event loop, innermost first."""
    while frame is not None:
        code = frame.f_code
        parts = PurePath(code.co_filename).parts
        if (code.co_name in TURNS and not LOOPS.isdisjoint(parts)) or "_backends" in parts:  # of anyio
            return
        yield frame
        frame = frame.f_back


def _rank(path: str) -> int:
    """Rank a file: 3 is the program's own, 2 a library's, 0 Python's or ours."""
    if path.startswith((PURE, PLATFORM)):
        return 0 if path.startswith(OURS) else 2
    return 0 if path.startswith((*STANDARD, OURS, "<frozen")) else 3
