"""Real NATS servers: the newest one for most tests, older ones for the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskcore.faults import NatsServer
from tests.support.real import serving


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: nats-py knows no other loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """Share the server of the version that is found first; tests use queues of their own."""
    with serving(NatsServer) as server:
        yield server
