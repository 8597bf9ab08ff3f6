"""Forks: what has to be done in a copy of this process, and in the copy of its event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["CallInLoop", "in_each_copy"]

#: Calls a function in the copy of the event loop, as soon as that goes on.
CallInLoop: TypeAlias = Callable[[Callable[[], None]], Any]

_loop: asyncio.AbstractEventLoop | None = None  #: where the fork is made; the copy cannot ask


def in_each_copy(call: Callable[[CallInLoop | None], None]) -> None:
    """Call a function in each copy of this process; with None, if the fork was not made in an event loop of asyncio."""
    if hasattr(os, "register_at_fork"):  # Windows cannot fork
        os.register_at_fork(after_in_child=lambda: call(None if _loop is None else _loop.call_soon))


def _note_loop() -> None:
    global _loop  # noqa: PLW0603 - from before a fork to behind it
    try:
        _loop = asyncio.get_running_loop()
    except RuntimeError:
        _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_loop)
