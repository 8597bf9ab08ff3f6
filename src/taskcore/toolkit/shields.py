"""Shields: whether a task of asyncio is in a part that anyio protects from cancellation.

anyio has no public way to ask. Its private names are read here only, and only when a job is interrupted; the reason is
in docs/adr/0014. Where a name is gone, no task counts as shielded.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["is_shielded"]


def is_shielded(task: asyncio.Task[Any]) -> bool:
    """Tell whether the task is inside of ``CancelScope(shield=True)``."""
    from anyio._backends import _asyncio as anyio_on_asyncio  # noqa: PLC0415 - see above

    state = getattr(anyio_on_asyncio, "_task_states", {}).get(task)
    scope = getattr(state, "cancel_scope", None)
    while scope is not None:
        if scope.shield:
            return True
        scope = getattr(scope, "_parent_scope", None)
    return False
