"""The pytest plugin, used as its users use it."""

from __future__ import annotations

import pytest

import taskcore
from taskcore import App, Router
from taskcore.testing.plugin import RunningApp

pytestmark = pytest.mark.anyio

router = Router()


@router.task
async def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


async def test_an_app_that_works(taskcore_app: RunningApp) -> None:
    """The fixture opens an app with a worker, on either event loop, and its jobs are done."""
    async with taskcore_app(router) as app:
        assert isinstance(app, App)
        job = await greet.enqueue("Ada")
        assert await job.result(timeout=5) == "hello Ada"


async def test_the_tasks_of_an_app_are_given_back(taskcore_app: RunningApp) -> None:
    """The tasks of a program's own app run in the test's app for the block, and belong to their own app afterwards."""
    own = App("memory://")

    @own.task(name="own.greet", keep_result=60.0)
    async def hello() -> str:
        return "hello"

    for _ in range(2):
        async with taskcore_app(own, keep_result=5.0):
            assert await (await hello.enqueue()).result(timeout=5) == "hello"
        with pytest.raises(taskcore.NotRunning, match=r"the app of own\.greet is not open"):
            await hello.enqueue()
    async with own.running():
        assert await (await hello.enqueue()).result(timeout=5) == "hello"


async def test_options_reach_the_app(taskcore_app: RunningApp) -> None:
    """Keyword arguments are the app's own options."""
    async with taskcore_app(router, concurrency=3, retry=taskcore.Retry(attempts=1)) as app:
        assert (app.settings.concurrency, app.settings.retry.attempts) == (3, 1)
