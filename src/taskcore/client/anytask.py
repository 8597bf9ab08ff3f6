"""The task of a job of which only the id is known: it reads any result, as plain JSON data."""

from __future__ import annotations

from typing import Any

from taskcore.config import Settings
from taskcore.contract import compile_contract
from taskcore.options import TaskSpec
from taskcore.results import ANY_TASK
from taskcore.task import AsyncTask, Task, TaskHost

__all__ = ["any_task"]


async def _any() -> Any: ...


def any_task(host: TaskHost, settings: Settings, *, has_store: bool) -> Task[..., object]:
    """Make it for one app."""
    task: Task[..., object] = AsyncTask(compile_contract(_any, name=ANY_TASK), TaskSpec())
    task.bind(host, task.spec.complete(settings, has_store=has_store))
    return task
