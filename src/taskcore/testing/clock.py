"""A virtual clock: time passes only when every task waits, so a day of retries takes milliseconds.

    async def scenario() -> None:
        app = App("memory://", clock=wall_clock)
        async with app.running():
            ...
            await anyio.sleep(86_400)

    run_virtually(scenario)

Limits:
  * It needs trio, whose loop can be given a clock: ``pip install "taskcore-framework[trio]"``.
  * Threads, processes and sockets do not know this clock. While one of them works, the loop has nothing to do, and time
    jumps. So: the in-memory broker, and tasks that are ``async def``.
  * A loop that waits for nothing at all waits for ever; a time limit in the function (``anyio.fail_after``) ends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio

from taskcore.errors import AdapterMissing

__all__ = ["EPOCH", "run_virtually", "wall_clock"]

T = TypeVar("T")
Args = TypeVarTuple("Args")

EPOCH = 1_800_000_000.0  #: what the wall clock says when a virtual run begins, in seconds since 1970


def run_virtually(function: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
    """Run an async function to its end on a clock that jumps to the next timer; what it returns.

    :raises AdapterMissing: trio is not installed; the text has the install command (TC102).
    """
    try:
        import trio.testing
    except ImportError as error:
        raise AdapterMissing(
            "virtual time needs trio, whose event loop can be given a clock",
            fix='pip install "taskcore-framework[trio]"',
        ) from error
    clock = trio.testing.MockClock(autojump_threshold=0)
    return anyio.run(function, *args, backend="trio", backend_options={"clock": clock})


def wall_clock() -> float:
    """Return the seconds since the epoch, passing as the event loop's time does.

    It serves ``App(clock=…)`` and ``History(clock=…)``. Under a virtual clock the
    time begins at EPOCH. Outside of an event loop there is no such time.
    """
    return EPOCH + anyio.current_time()
