"""Virtual time on both event loops: it passes only when no task can run."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import anyio

__all__ = ["EPOCH", "VirtualLoop", "block", "clock", "options"]

EPOCH = 1_800_000_000.0  #: what the wall clock says when a virtual loop begins


def clock() -> float:
    """Return seconds since the epoch that pass as the event loop's time does; for ``App(clock=…)``."""
    return EPOCH + anyio.current_time()


def block(seconds: float) -> None:
    """Let time pass while no task can run, as a task does that computes in the event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415

        trio.lowlevel.current_clock().jump(seconds)
    else:
        loop.jump(seconds)


def options(backend: str) -> dict[str, Any]:
    """Return the ``backend_options`` of anyio.run under which time is virtual."""
    if backend == "asyncio":
        return {"loop_factory": VirtualLoop}
    import trio.testing  # noqa: PLC0415 - trio's clock is bound to the moment it is made

    return {"clock": trio.testing.MockClock(autojump_threshold=0)}


class _Jumping(selectors.DefaultSelector):
    """Asks what is ready now; instead of waiting it moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timer is set: an event from outside has to come
            return super().select(None)
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock that jumps to the next timer."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-7  # after a year, the next larger float is further away than the real clock's

    def time(self) -> float:
        """Return the seconds since the loop was made, as far as timers tell."""
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        """Let time pass at once."""
        self._jumping.now += seconds
