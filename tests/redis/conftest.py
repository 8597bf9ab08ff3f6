"""Shared by the tests of Redis: its client library knows asyncio only."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests here run on asyncio."""
    return "asyncio"
