"""``app.workflow`` and ``app.workflows``: to begin a workflow, and to ask for one that was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypedDict, TypeVar

from taskcore.client.host import AppHost
from taskcore.components import Components
from taskcore.config import Settings
from taskcore.task import Task
from taskcore.toolkit.units import Duration, seconds_of
from taskcore.workflows.build import Workflow
from taskcore.workflows.run import Run
from taskcore.workflows.steps import Step
from taskcore.workflows.submit import submit

__all__ = ["WorkflowOptions", "Workflows"]

R = TypeVar("R")

DEADLINE = 86_400.0  #: seconds after which no step of a workflow starts, unless it says otherwise
KEEP = 3_600.0  #: seconds for which the outcome of a workflow is kept, if the app's settings keep none


class WorkflowOptions(TypedDict, total=False):
    """The options of a workflow.

    :param deadline: no step starts after this time; default: a day.
    :param keep: how long its outcome is kept; default: as the app keeps results, or an hour.
    """

    deadline: Duration
    keep: Duration


class Workflows:
    """Workflows of an app."""

    def __init__(
        self,
        host: AppHost,
        settings: Settings,
        tasks: Mapping[str, Task[..., Any]],
        components: Callable[[], Components],
    ) -> None:
        self._host = host
        self._settings = settings
        self._tasks = tasks
        self._components = components

    def begin(self, name: str, options: WorkflowOptions) -> Workflow:
        """Begin a workflow.

        :raises InvalidSetting: an option cannot be (TC104).
        """
        deadline = seconds_of("deadline", options.get("deadline", DEADLINE))
        keep = seconds_of("keep", options.get("keep", self._settings.keep_result or KEEP))
        return Workflow(name, partial(self._submit, deadline=deadline, keep=keep))

    async def _submit(self, workflow: Workflow, last: Step[R], /, *, deadline: float, keep: float) -> Run[R]:
        self._host.require_open()
        return await submit(
            workflow, last, self._components(), deadline=deadline, keep=keep, source=self._settings.source
        )
