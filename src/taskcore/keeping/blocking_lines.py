"""Where a thread is: the line that blocks an event loop."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType
from typing import Final

__all__ = ["blocking_place", "holding_place"]

#: The functions in which an event loop turns; what stands further out is the program around the loop.
TURNS: Final = frozenset({"_run_once", "run_forever", "run_until_complete", "unrolled_run", "run"})
LOOPS: Final = frozenset({"asyncio", "trio", "uvloop", "anyio"})
PURE, PLATFORM = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
STANDARD: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
OWN_RANK: Final = 3  #: the rank of the program's own files
OURS: Final = str(PurePath(__file__).parents[1])


def blocking_place(thread: int) -> str:
    """Find the line at which the code of a task is, in the thread of an event loop: ``report.py:88``.

    The innermost line of the program itself; in a library, if the task belongs to one. Empty if the loop only waits.
    """
    return _place(sys._current_frames().get(thread))[1]  # noqa: SLF001 - the one way to see another thread


def holding_place(loop_thread: int) -> str:
    """Find the line whose C code has just kept all other threads from running; the event loop's if that may be it."""
    frames = sys._current_frames()  # noqa: SLF001 - as above
    frames.pop(threading.get_ident(), None)
    in_loop = _place(frames.pop(loop_thread, None))
    found = [in_loop] if in_loop[0] == OWN_RANK else map(_place, frames.values())
    return " or ".join(sorted({place for rank, place in found if rank == OWN_RANK})) or "C code that kept the GIL"


def _place(frame: FrameType | None) -> tuple[int, str]:
    best, rank = "", 0
    for each in _in_tasks(frame):
        found = _rank(each.f_code.co_filename)
        if found > rank:
            best, rank = f"{PurePath(each.f_code.co_filename).name}:{each.f_lineno}", found
    return rank, best


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
    return 0 if path.startswith((*STANDARD, OURS, "<frozen")) else OWN_RANK
