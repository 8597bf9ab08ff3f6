"""Shared by the tests of Redis: its client library knows asyncio only; servers to mistreat."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskcore.faults import RedisServer
from tests.support.real import require


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run the tests of this folder on asyncio."""
    return "asyncio"


@pytest.fixture
async def own(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    """Run a Redis for one test to mistreat; of a version, if the test is run on several."""
    version = getattr(request, "param", "")
    async with require(RedisServer, version)(version=version) as server:
        yield server
