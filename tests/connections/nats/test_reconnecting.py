"""Callers that wait while a connection is made again."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from taskcore.connections.nats.address import read_address
from taskcore.connections.nats.connection import READY_TIMEOUT, SupervisedConnection
from taskcore.errors import BrokerUnavailable
from tests.support.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Let time pass only where a test waits."""
    return "asyncio", {"loop_factory": VirtualLoop}


class Wire:
    """A raw connection that answers until it is cut."""

    def __init__(self) -> None:
        self.alive, self.why, self.info = True, "cut", dict[str, Any]()
        self.ended = asyncio.get_running_loop().create_future()

    async def ping(self, _timeout: float) -> bool:
        """Answer."""
        return self.alive

    def abort(self) -> None:
        """Cut it."""
        self.alive = False
        if not self.ended.done():
            self.ended.set_result(None)

    async def close(self) -> None:
        """Close it."""
        self.abort()


class Away(SupervisedConnection):
    """A connection to a server that is away until a time."""

    back_at = 0.0
    refused = 0

    async def _try_all(self) -> None:
        if asyncio.get_running_loop().time() < self.back_at:
            self.refused += 1
            raise self.unavailable("refused")
        self._connection = Wire()  # type: ignore[assignment]
        self._opened.set()


@pytest.mark.parametrize("seconds", [0.2, 0.7, 1.3])
async def test_a_call_that_waits_gets_the_next_connection(seconds: float) -> None:
    """It returns as soon as there is one, however many attempts have failed since it began to wait."""
    async with Away(read_address("nats://h:1"), name="test") as link:
        began = asyncio.get_running_loop().time()
        link.back_at = began + seconds
        link._connection.abort()  # type: ignore[union-attr]
        await link.ready()
        assert link.connected
        assert link.refused > 1
        assert asyncio.get_running_loop().time() - began < seconds + 0.6


async def test_a_call_does_not_wait_for_ever() -> None:
    """A server that stays away is an error after the time that a call waits."""
    async with Away(read_address("nats://h:1"), name="test") as link:
        link.back_at = asyncio.get_running_loop().time() + 2 * READY_TIMEOUT
        link._connection.abort()  # type: ignore[union-attr]
        with pytest.raises(BrokerUnavailable, match="there is no connection"):
            await link.ready()


def test_it_opens_again_in_another_loop() -> None:
    """Nothing of the first loop is waited for in the second."""
    link = Away(read_address("nats://h:1"), name="test")

    async def use() -> None:
        async with link:
            link.back_at = asyncio.get_running_loop().time() + 0.2
            link._connection.abort()  # type: ignore[union-attr]
            await link.ready()

    for _ in range(2):
        link.back_at = 0.0
        anyio.run(use)
