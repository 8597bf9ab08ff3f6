"""Leases are extended from outside of the event loop that holds them, by tickets that are bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Outgoing
from taskcore.faults import NatsServer, RedisServer
from taskcore.lifecycle import ACK
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LEASE = 1.0


@pytest.fixture
def anyio_backend() -> str:
    """Client libraries need asyncio."""
    return "asyncio"


@pytest.fixture(scope="module", params=[RedisServer, NatsServer])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a broker whose leases another connection can extend."""
    with serving(request.param) as server:
        yield server.url


async def keep(url: str, tickets: list[bytes], seconds: float) -> None:
    """Extend for a while, with a backend that is not open."""
    backend: Any = open_backend(url)
    async with backend.extender(lease=LEASE) as extender:
        for _ in range(int(seconds / LEASE * 4)):
            assert not await extender.extend(tickets)
            await anyio.sleep(LEASE / 4)


async def test_a_ticket_keeps_a_lease(url: str):
    """What an extender in another thread extends is held for as long as it does, and can be settled then."""
    async with open_backend(url) as backend:
        await backend.publish([Outgoing("kept", f"job-{number}", b"{}") for number in range(3)])
        async with backend.consume(["kept"], lease=LEASE) as source:
            batch: list[Any] = []
            while len(batch) < 3:
                batch += await source.receive(3 - len(batch))
            tickets = [source.ticket(each) for each in batch]  # type: ignore[attr-defined]
            assert all(type(ticket) is bytes for ticket in tickets)
            await anyio.to_thread.run_sync(anyio.run, keep, url, tickets, 3 * LEASE)
            source.extended(batch, anyio.current_time())  # type: ignore[attr-defined]
            assert not await source.settle([(each, ACK) for each in batch])
        assert (await backend.admin.stats(["kept"]))[0].leased == 0


async def test_a_lost_lease_is_not_taken_back(url: str):
    """A ticket whose lease has ended is refused by a server that can tell."""
    if not url.startswith("redis"):
        pytest.skip("the server takes extensions from every former holder; workers judge by their own clocks")
    async with open_backend(url) as backend:
        await backend.publish([Outgoing("lost", "job", b"{}")])
        async with backend.consume(["lost"], lease=LEASE) as source:
            [delivery] = await source.receive(1)
            ticket = source.ticket(delivery)  # type: ignore[attr-defined]
            await anyio.sleep(1.5 * LEASE)
            async with backend.extender(lease=LEASE) as extender:  # type: ignore[attr-defined]
                assert list(await extender.extend([ticket])) == [ticket]
