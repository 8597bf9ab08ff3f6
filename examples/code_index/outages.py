"""Wait while the broker is unreachable, ask again, and give up in time.

Workers do that by themselves. A caller chooses between an error now and an answer later; this program waits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from taskcore import BrokerUnavailable, EnqueueUncertain

__all__ = ["through_outages"]

T = TypeVar("T")

OUTAGE_TIMEOUT = 60.0  #: seconds that a broker may be unreachable
PAUSE, LONGEST_PAUSE = 0.1, 2.0  #: seconds between two tries


async def through_outages(ask: Callable[[], Awaitable[T]], timeout: float = OUTAGE_TIMEOUT) -> T:
    """Return the answer; ask again while the broker cannot be reached.

    :param ask: an operation that may be repeated: a question, or sending a job with a key or an explicit id.
    :param timeout: seconds after the first failure, after which the error is raised.
    """
    first: float | None = None
    pause = PAUSE
    while True:
        try:
            return await ask()
        except (BrokerUnavailable, EnqueueUncertain):
            now = anyio.current_time()
            first = now if first is None else first
            if now - first >= timeout:
                raise
        await anyio.sleep(random.uniform(pause / 2, pause))  # spread the callers
        pause = min(pause * 2, LONGEST_PAUSE)
