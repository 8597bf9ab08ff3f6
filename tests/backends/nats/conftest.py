"""What all tests of NATS need: its client library knows asyncio only."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: nats-py knows no other loop."""
    return "asyncio"
