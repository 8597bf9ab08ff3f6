"""Services: parts that run beside the work for as long as a worker or an app does, such as a scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import anyio
import anyio.abc

from taskcore.toolkit.detached import start_detached
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.logging import logger

__all__ = ["Service", "open_services", "serving"]

log = logger("taskcore.services")


class Service(Protocol):
    """A part with a task of its own."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Say when it is ready by ``task_status.started()``, then serve until cancelled."""
        ...


@asynccontextmanager
async def serving(services: Iterable[Service]) -> AsyncIterator[None]:
    """Run services beside the body: each starts when the one before is ready, and they stop in the reverse order.

    An error of a service interrupts the body and is raised.
    """
    async with AsyncExitStack() as running:
        for service in services:
            await running.enter_async_context(_beside(service))
        yield


@asynccontextmanager
async def _beside(service: Service) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        await group.start(service.run)
        yield
        group.cancel_scope.cancel()


async def open_services(services: Iterable[Service]) -> Callable[[], Awaitable[None]]:
    """Start services that belong to no block, in order; return what stops them, in the reverse order.

    They run in a task of their own, because the task that closes an app need not be the one that opened it. An error
    before a service is ready is raised here, and those before it are stopped. A later one is logged: the other services
    go on, and so does the app.
    """
    ready, stopping, ended, scope = anyio.Event(), anyio.Event(), anyio.Event(), anyio.CancelScope()
    failure: Exception | None = None

    async def serve() -> None:
        nonlocal failure
        try:
            with scope, unwrap_single():
                async with serving([_Logged(service) for service in services]):
                    ready.set()
                    await stopping.wait()
        except Exception as error:  # noqa: BLE001 - raised below, for the caller
            failure = error
        finally:
            ready.set()
            ended.set()

    async def stop() -> None:
        stopping.set()
        with anyio.CancelScope(shield=True):
            await ended.wait()

    start_detached(serve, name="taskcore services")
    try:
        await ready.wait()
    except BaseException:
        scope.cancel()
        await stop()
        raise
    if failure is not None:
        raise failure
    return stop


class _Logged:
    """A service whose error is logged, if it comes after the service was ready."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ready = False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        self._task_status = task_status
        try:
            await self._service.run(task_status=self)
        except Exception:
            if not self._ready:
                raise
            log.exception("%r failed and has ended; the app goes on without it until it is opened again", self._service)

    def started(self, value: None = None) -> None:
        """Pass on that the service is ready."""
        self._ready = True
        self._task_status.started(value)
