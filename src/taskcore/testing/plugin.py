"""The pytest plugin: four fixtures. They import nothing of ours until a test uses them.

    async def test_greet(taskcore_app):
        async with taskcore_app(router) as app:
            job = await greet.enqueue("Ada")
            assert await job.result(timeout=5) == "hello Ada"

    async def test_a_crash(taskcore_app, crash_worker):
        async with taskcore_app(router) as app:
            async with crash_worker(app, at="run.returned"):        dies when the function has returned
                job = await charge.enqueue(7)
            await job.result(timeout=5)                             a new worker has done it again
            assert charges == [7]

    async def test_a_lost_lease(taskcore_app, redeliver):
        async with taskcore_app(router) as app:
            job = await slow.enqueue()
            await redeliver(app, job)                               another worker gets it while it runs

    async def test_charge(assert_idempotent):
        await assert_idempotent(charge, 7, effects=charges)

Works with whatever runs your async tests: anyio's plugin, pytest-asyncio, pytest-trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.task import Job
    from taskcore.testing.idempotent import Proof

__all__ = [
    "AssertIdempotent",
    "CrashWorker",
    "Redeliver",
    "RunningApp",
    "assert_idempotent",
    "crash_worker",
    "redeliver",
    "taskcore_app",
]

RunningApp: TypeAlias = "Callable[..., AbstractAsyncContextManager[App]]"
CrashWorker: TypeAlias = "Callable[..., AbstractAsyncContextManager[None]]"
Redeliver: TypeAlias = "Callable[[App, Job[Any]], Coroutine[Any, Any, None]]"
AssertIdempotent: TypeAlias = "Callable[..., Coroutine[Any, Any, Proof]]"


@pytest.fixture
def taskcore_app() -> RunningApp:
    """Return a function that opens an app on ``memory://`` with its worker running.

    Use it as ``async with taskcore_app(router) as app``.
    Positional arguments are routers to include, or the program's own app, whose tasks run here until the end of the
    block; keyword arguments are options of :class:`taskcore.App`.
    """

    @asynccontextmanager
    async def running(*routers: Any, url: str = "memory://", **options: Any) -> AsyncIterator[App]:
        from taskcore.app import App
        from taskcore.testing.restartable import working

        app = App(url, **options)
        before = [(task, task.binding) for router in routers for task in router]
        try:
            for router in routers:
                app.include(router)
            async with working(app):
                yield app
        finally:
            for task, binding in before:
                task.bind(*binding)

    return running


@pytest.fixture
def crash_worker() -> CrashWorker:
    """Kill an app's worker, at once or at a crash point, without giving anything back; then start a new one.

    Use it as ``async with crash_worker(app, at="settle.ended"): …``.
    See :func:`taskcore.testing.restartable.crashing_worker`.
    """
    from taskcore.testing.restartable import crashing_worker

    return crashing_worker


@pytest.fixture
def redeliver() -> Redeliver:
    """Hand a running job out again, as after a lease that ran out.

    Use it as ``await redeliver(app, job)``.
    See :func:`taskcore.testing.restartable.redeliver`.
    """
    from taskcore.testing.restartable import redeliver

    return redeliver


@pytest.fixture
def assert_idempotent() -> AssertIdempotent:
    """Prove that a task is idempotent, or say where it is not.

    Use it as ``await assert_idempotent(task, 7, effects=…)``.
    See :func:`taskcore.testing.idempotent.assert_idempotent`.
    """
    from taskcore.testing.idempotent import assert_idempotent

    return assert_idempotent
