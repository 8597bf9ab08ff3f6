"""How many jobs end per second, so that the worker knows how many may wait in its inbox."""

from __future__ import annotations

import anyio

__all__ = ["Throughput"]

SPAN = 0.05  #: seconds over which at least the pace is measured


class Throughput:
    """Counts jobs; ``rate`` is the number per second, over the time since it was last taken."""

    __slots__ = ("_rate", "_since", "jobs")

    def __init__(self) -> None:
        self.jobs = 0
        self._since = float("-inf")
        self._rate = 0.0

    def rate(self) -> float:
        """Jobs per second."""
        now = anyio.current_time()
        span = now - self._since
        if span >= SPAN:
            self._rate = self.jobs / span
            self._since = now
            self.jobs = 0
        return self._rate
