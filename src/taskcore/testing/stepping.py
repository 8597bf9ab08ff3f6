"""Driving a coroutine by hand, to cut it at its k-th await.

There are two kinds of places. Where the coroutine really waits, its scope is cancelled, by the event loop's own means;
that leaves nothing in disorder behind. And in front of every line that awaits something, an exception is raised: there
because fakes of a test often never wait, and so could never be cancelled. Only lines of the user's own files count.
"""

from __future__ import annotations

import dis
import inspect
import os
import sys
import sysconfig
from collections.abc import Coroutine, Generator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anyio

__all__ = ["Cut", "CutHere", "Driven"]


class CutHere(BaseException):
    """The run ends here."""


class Cut:
    """One cut: at the ``number``-th place.

    :ivar place: where that was; None if the run ended before it came so far.
    :ivar made: whether the run has been told.
    """

    def __init__(self, number: int) -> None:
        self.scope = anyio.CancelScope()
        self.place: str | None = None
        self.made = False
        self._left = number

    def __str__(self) -> str:
        return self.place or "the end"

    def here(self, frame: FrameType | None, how: str) -> bool:
        """Tell whether it is time; the place is remembered."""
        self._left -= 1
        if self._left != 0 or self.made:
            return False
        self.place = f"{_where(frame)} ({how})"
        self.made = True
        return True


class Driven:
    """Await it: the coroutine, up to its cut."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], cut: Cut) -> None:
        self._coroutine = coroutine
        self._cut = cut

    def __await__(self) -> Generator[Any, Any, Any]:
        """Hand everything through between the event loop and the coroutine, and count.

        :raises CutHere: cut in front of an await.
        """
        coroutine, cut = self._coroutine, self._cut
        error: BaseException | None = None
        answer: Any = None
        while True:
            tracer = sys.gettrace()
            sys.settrace(self._trace)
            try:
                signal = coroutine.send(answer) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                sys.settrace(tracer)
            if cut.here(_innermost(coroutine), "while it waits"):
                cut.scope.cancel()
            try:
                answer, error = (yield signal), None
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as raised:  # noqa: BLE001 - it belongs to the coroutine, which may catch it
                error = raised

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call" and not (frame.f_code.co_flags & inspect.CO_COROUTINE and _is_users(frame.f_code)):
            return None
        awaits = event == "line" and frame.f_lineno in _awaiting_lines(frame.f_code)
        if awaits and self._cut.here(frame, "before it awaits"):
            raise CutHere
        return self._trace


@cache
def _awaiting_lines(code: CodeType) -> frozenset[int]:
    """Return the first lines of the statements that await something."""
    lines: set[int] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("GET_AWAITABLE", "BEFORE_ASYNC_WITH", "GET_ANEXT"):
            position = instruction.positions
            if position is not None and position.lineno is not None:
                lines.add(position.lineno)
    return frozenset(lines)


_LIBRARIES = (
    *(f"{Path(sysconfig.get_path(name)).resolve()}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    f"{Path(__file__).resolve().parents[1]}{os.sep}",
)


@cache
def _is_users(code: CodeType) -> bool:
    """Tell whether this is neither Python's own code, nor of an installed package, nor ours."""
    return not code.co_filename.startswith("<") and not str(Path(code.co_filename).resolve()).startswith(_LIBRARIES)


def _innermost(coroutine: Any) -> FrameType | None:
    """Return the innermost frame of the user's in which a waiting coroutine stands."""
    found: FrameType | None = None
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if found is None or _is_users(frame.f_code):
            found = frame
        coroutine = coroutine.cr_await
    return found


def _where(frame: FrameType | None) -> str:
    if frame is None:
        return "?"
    file = "/".join(frame.f_code.co_filename.replace("\\", "/").split("/")[-2:])
    return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
