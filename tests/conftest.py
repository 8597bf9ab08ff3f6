"""Shared by all tests: both event loops, and a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every async test runs on asyncio and on trio."""
    return request.param


@pytest.fixture
def virtual_time() -> Any:
    """Options for anyio.run under which time passes only when nobody has anything to do."""
    import trio.testing  # noqa: PLC0415 - trio's clock is bound to the moment it is made

    return {"backend": "trio", "backend_options": {"clock": trio.testing.MockClock(autojump_threshold=0)}}
