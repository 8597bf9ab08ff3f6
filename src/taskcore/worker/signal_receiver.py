"""Signals as an iterator: none is lost while the event loop is blocked.

Handlers of an asyncio loop learn of a signal by a byte in the pipe that wakes the loop. Threads that call into a
blocked loop fill that pipe, and then the byte is dropped. A handler of Python's runs all the same, on Windows, too.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Self

import anyio

from taskcore.toolkit.call_soon import call_soon_in_loop

__all__ = ["receive_signals"]


@contextmanager
def receive_signals(*numbers: signal.Signals) -> Iterator[AsyncIterator[int]]:
    """Receive these signals instead of what they do by default; yields an iterator of their numbers.

    A signal that comes while no caller waits is kept for the next. On Windows a signal may not wake the loop: wait with
    a time limit, and again.
    """
    received = _Received()
    before: dict[int, Any] = {}
    try:
        for number in (*numbers, *_also()):
            before[number] = signal.signal(number, received.handle)
        yield received
    finally:
        for replaced, handler in before.items():
            signal.signal(replaced, signal.SIG_DFL if handler is None else handler)


def _also() -> tuple[signal.Signals, ...]:
    """Return Windows' own signal to a program that has a console of its own: Ctrl-Break."""
    found = getattr(signal, "SIGBREAK", None)
    return () if found is None else (found,)


class _Received:
    """What the handlers have got."""

    def __init__(self) -> None:
        self._numbers: deque[int] = deque()
        self._came = anyio.Event()
        self._call_soon = call_soon_in_loop()

    def handle(self, number: int, _: object) -> None:
        """Keep the signal, and wake the loop: a handler may not touch an event of the loop itself."""
        self._numbers.append(number)
        self._call_soon(self._wake)

    def _wake(self) -> None:
        self._came.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while not self._numbers:
            self._came = anyio.Event()
            await self._came.wait()
        return self._numbers.popleft()
