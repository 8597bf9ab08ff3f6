"""The way into an event loop from another thread, or from a handler of signals; asyncio's and trio's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import anyio.lowlevel

__all__ = ["CallSoon", "call_soon_in_loop"]

#: Calls a function in the event loop, soon; may be called from any thread.
CallSoon: TypeAlias = Callable[[Callable[[], object]], object]


def call_soon_in_loop() -> CallSoon:
    """Return the way into the loop that runs here. After the end of that loop, calls are dropped."""
    native = anyio.lowlevel.current_token().native_token
    soon: CallSoon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon  # type: ignore[attr-defined]

    def call_soon(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # each loop's way to say that it has ended; trio's derives from it
            soon(function)

    return call_soon
