"""Signals as an iterator, also where the event loop has no handlers of signals, as asyncio's on Windows."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import anyio

__all__ = ["receive_signals"]

POLL_EVERY = 0.2  #: seconds between two looks: a handler of Python's does not wake an event loop everywhere


@contextmanager
def receive_signals(*numbers: signal.Signals) -> Iterator[AsyncIterator[int]]:
    """Receive these signals instead of what they do by default; yields an iterator of their numbers."""
    with ExitStack() as exits:
        try:
            received: AsyncIterator[int] = exits.enter_context(anyio.open_signal_receiver(*numbers))
        except NotImplementedError:
            received = exits.enter_context(_handlers(*numbers))
        yield received


@contextmanager
def _handlers(*numbers: signal.Signals) -> Iterator[AsyncIterator[int]]:
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

    def handle(self, number: int, _: object) -> None:
        self._numbers.append(number)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while not self._numbers:  # noqa: ASYNC110 - a handler may not touch an event of the loop
            await anyio.sleep(POLL_EVERY)
        return self._numbers.popleft()
