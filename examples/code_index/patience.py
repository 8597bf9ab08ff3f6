"""What a program does while its broker is away: it waits, asks again, and knows when to give up.

Workers do that by themselves. A caller has to decide: an error now, or an answer later? This one is in no hurry.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from taskcore import BrokerUnavailable, EnqueueUncertain

__all__ = ["patiently"]

T = TypeVar("T")

PATIENCE = 60.0  #: seconds that a broker may be away
PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two tries


async def patiently(ask: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """The answer, asked for again and again while the broker cannot be reached.

    :param ask: something that may be done twice: a question, or sending a job that has a key or an id of our own.
    :param patience: seconds after the first failure; then the error is the caller's.
    """
    first: float | None = None
    pause = PAUSE
    while True:
        try:
            return await ask()
        except (BrokerUnavailable, EnqueueUncertain):
            now = anyio.current_time()
            first = now if first is None else first
            if now - first >= patience:
                raise
        await anyio.sleep(random.uniform(pause / 2, pause))  # not all of them at once
        pause = min(pause * 2, LONGEST_PAUSE)
