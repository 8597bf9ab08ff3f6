"""Services: parts that run beside the work for as long as a worker or an app does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import anyio.abc

__all__ = ["Service", "start_services"]


class Service(Protocol):
    """A part with a task of its own."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Say when it is ready by ``task_status.started()``, then serve until cancelled."""
        ...


async def start_services(group: anyio.abc.TaskGroup, services: Iterable[Service]) -> None:
    """Start services in this group, each of them when the one before is ready; cancelling the group stops them."""
    for service in services:
        await group.start(service.run)
