"""The pytest plugin: the fixture ``taskcore_app``. It imports nothing of ours until a test uses it.

    async def test_greet(taskcore_app):
        async with taskcore_app(router) as app:
            job = await greet.enqueue("Ada")
            assert await job.result(timeout=5) == "hello Ada"

Works with whatever runs your async tests: anyio's plugin, pytest-asyncio, pytest-trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["RunningApp", "taskcore_app"]

RunningApp: TypeAlias = "Callable[..., AbstractAsyncContextManager[App]]"


@pytest.fixture
def taskcore_app() -> RunningApp:
    """A function that opens an app on ``memory://`` with its worker running.

    Use it as ``async with taskcore_app(router) as app``.
    Positional arguments are routers to include, keyword arguments are options of :class:`taskcore.App`.
    """

    @asynccontextmanager
    async def running(*routers: Any, url: str = "memory://", **options: Any) -> AsyncIterator[App]:
        from taskcore.app import App

        app = App(url, **options)
        for router in routers:
            app.include(router)
        async with app.running():
            yield app

    return running
