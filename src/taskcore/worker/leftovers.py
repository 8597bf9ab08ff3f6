"""Leftovers: async generators that a job's function drops before their end, and tasks that it starts.

``async for row in rows(): break`` leaves ``rows`` open, with the cancel scopes and connections inside of it. The event
loop would close it later in some other task, where a cancel scope cannot be left. The job's own task closes it instead.
A task that ends in ``SystemExit`` would end the event loop; it ends in an error instead (C25).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from taskcore.envelope import running
from taskcore.toolkit.contained_tasks import containing_tasks

__all__ = ["keeping_leftovers"]

Finalizer: TypeAlias = Callable[[AsyncGenerator[Any, Any]], None]


@contextmanager
def keeping_leftovers() -> Iterator[None]:
    """Keep what jobs of this thread drop until they close it, and contain their tasks; other code is not affected."""
    before = sys.get_asyncgen_hooks()
    keep = _keeper(before.finalizer)
    sys.set_asyncgen_hooks(finalizer=keep)
    try:
        with containing_tasks(lambda: running.get(None) is not None):
            yield
    finally:
        if sys.get_asyncgen_hooks().finalizer is keep:
            sys.set_asyncgen_hooks(finalizer=before.finalizer)


def _keeper(otherwise: Finalizer | None) -> Finalizer:
    def keep(generator: AsyncGenerator[Any, Any]) -> None:
        job = running.get(None)
        if job is not None and job._slot is not None and job._slot.context is job:  # noqa: SLF001
            job._slot.dropped.append(generator)  # noqa: SLF001
        elif otherwise is not None:
            otherwise(generator)

    return keep
