"""Shared by the tests of Redis: its client library knows asyncio only; servers to share and servers to mistreat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from taskcore.faults import RedisServer
from tests.support.real import require, serving


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run the tests of this folder on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def shared() -> Iterator[RedisServer]:
    """Run one Redis for all tests of this process that only use queues of their own."""
    with serving(RedisServer) as server:
        yield server


@pytest.fixture
async def own(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    """Run a Redis for one test to mistreat; of a version, if the test is run on several."""
    version = getattr(request, "param", "")
    async with require(RedisServer, version)(version=version) as server:
        yield server
