"""Leftovers: async generators that a job's function drops before their end, and tasks that it starts.

``async for row in rows(): break`` leaves ``rows`` open, with the cancel scopes and connections inside of it. The event
loop would close it later in some other task, where a cancel scope cannot be left. The job's own task closes it instead.
A task that ends in ``SystemExit`` would end the event loop; it ends in an error instead (C25). The log names each task
that still runs when the worker has ended, with its job's id; it may serve others, so the worker cancels none.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from taskcore.toolkit.contained_tasks import containing_tasks, running_tasks
from taskcore.toolkit.logging import logger

__all__ = ["keeping_leftovers"]

log = logger("taskcore.worker")

LOGGED_TASKS = 5  #: tasks, each with a line of its own
JobHere: TypeAlias = Callable[[], Any]
Finalizer: TypeAlias = Callable[[AsyncGenerator[Any, Any]], None]


@contextmanager
def keeping_leftovers(job_here: JobHere) -> Iterator[None]:
    """Keep what jobs of this thread drop until they close it, and contain their tasks; other code is not affected.

    :param job_here: returns the context of the job that runs here; None if no job does.
    """
    before = sys.get_asyncgen_hooks()
    keep = _keeper(before.finalizer, job_here)
    sys.set_asyncgen_hooks(finalizer=keep)
    try:
        with containing_tasks(lambda: getattr(job_here(), "job_id", None)):
            yield
    finally:
        if sys.get_asyncgen_hooks().finalizer is keep:
            sys.set_asyncgen_hooks(finalizer=before.finalizer)
        _tell_tasks()


def _tell_tasks() -> None:
    running = [(job_id, work) for job_id, work in running_tasks() if not _is_ours(work)]
    for job_id, work in running[:LOGGED_TASKS]:
        name = getattr(work, "__qualname__", type(work).__name__)
        log.warning("job %s has left a task that still runs: %s", job_id, name)
    if len(running) > LOGGED_TASKS:
        log.warning("jobs have left %d more tasks that still run", len(running) - LOGGED_TASKS)


def _is_ours(work: object) -> bool:
    """Tell whether a task belongs to the app, which a job has used and others use, too."""
    frame = getattr(work, "cr_frame", None)
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "taskcore"


def _keeper(otherwise: Finalizer | None, job_here: JobHere) -> Finalizer:
    def keep(generator: AsyncGenerator[Any, Any]) -> None:
        job = job_here()
        if job is not None and job._slot is not None and job._slot.context is job:  # noqa: SLF001
            job._slot.dropped.append(generator)  # noqa: SLF001
        elif otherwise is not None:
            otherwise(generator)

    return keep
