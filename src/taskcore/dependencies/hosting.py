"""Running a worker inside of its app's lifespan, with what its jobs share."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Protocol

import anyio
import anyio.abc

from taskcore.components import Components
from taskcore.dependencies.lifetimes import closing_in_peace
from taskcore.dependencies.shared import WorkerDependencies, here
from taskcore.toolkit.groups import unwrap_single
from taskcore.worker.context import lifespan_state

__all__ = ["HostedWork", "run_hosted"]


class HostedWork(Protocol):
    """The work of a worker."""

    def __call__(self, *, task_status: anyio.abc.TaskStatus[None]) -> Awaitable[None]:
        """Work until stopped."""
        ...


async def run_hosted(
    components: Components, work: HostedWork, stopping: anyio.Event, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Enter the lifespan, work, and leave it when everything that the jobs share is closed.

    A worker that is asked to stop while the lifespan is being entered ends at once, without having worked.
    """
    entered = False

    async def stop_entering() -> None:
        await stopping.wait()
        if not entered:
            group.cancel_scope.cancel()

    with unwrap_single():
        async with anyio.create_task_group() as group:
            group.start_soon(stop_entering)
            with closing_in_peace("the lifespan") as protect:
                async with AsyncExitStack() as exits:
                    if components.lifespan is not None:
                        state = await exits.enter_async_context(components.lifespan())
                        exits.callback(lifespan_state.reset, lifespan_state.set(state))
                    entered = True
                    shared = WorkerDependencies(group, components.overrides)
                    exits.callback(here.reset, here.set(shared))
                    exits.push_async_callback(shared.aclose)
                    try:
                        await work(task_status=task_status)
                    except BaseException as error:
                        protect(error)
                        raise
            group.cancel_scope.cancel()
    if not entered:
        task_status.started()
