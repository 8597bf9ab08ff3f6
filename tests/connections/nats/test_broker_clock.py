"""What a process knows of its server's clock, which it reads over a connection that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

import pytest

from taskcore.connections.nats import jetstream
from taskcore.connections.nats.jetstream import BrokerClock
from taskcore.connections.nats.protocol import Message
from tests.support.virtual import VirtualLoop, clock

pytestmark = pytest.mark.anyio

AHEAD = 3_600.0  #: seconds that the server's clock is ahead of ours


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Let time pass only where a test waits."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture(autouse=True)
def _virtual_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "wall_clock", clock)


class SlowLink:
    """A link whose requests and answers are on their way for as long as a test says."""

    def __init__(self, *ways: tuple[float, float]) -> None:
        self.asked = 0
        self._ways: Iterator[tuple[float, float]] = chain(ways, repeat(ways[-1]))

    async def api(self, subject: str) -> dict[str, Any]:
        """Answer with the time at which the request arrived."""
        there, back = next(self._ways)
        self.asked += 1
        await asyncio.sleep(there)
        shown = datetime.fromtimestamp(jetstream.wall_clock() + AHEAD, UTC)
        await asyncio.sleep(back)
        return {"ts": f"{shown:%Y-%m-%dT%H:%M:%S.%f}000Z"}


def clock_of(link: SlowLink) -> BrokerClock:
    """Make the clock of a server behind this link."""
    return BrokerClock(link, "stream", Message(b"probe", b""))  # type: ignore[arg-type]


@pytest.mark.parametrize(("there", "back"), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1), (0.0, 0.0)])
async def test_a_slow_connection_makes_nothing_early(there: float, back: float) -> None:
    """Whichever way is the slow one, the server's clock is between the two bounds, so no wait ends early."""
    server = clock_of(SlowLink((there, back)))
    earliest, latest = await server.earliest(), await server.latest()
    assert earliest - 0.001 <= jetstream.wall_clock() + AHEAD
    assert jetstream.wall_clock() + AHEAD <= latest + 0.001
    assert latest - earliest == pytest.approx(there + back, abs=0.001)


async def test_the_quickest_answer_counts() -> None:
    """A slow answer is asked for again, at most twice; the quickest of them says most."""
    link = SlowLink((0.2, 0.2), (0.0, 0.0))
    server = clock_of(link)
    assert await server.latest() - await server.earliest() < 0.05
    assert link.asked == 2
    always_slow = SlowLink((0.05, 0.05))
    await clock_of(always_slow).latest()
    assert always_slow.asked == 3


async def test_what_is_known_badly_is_asked_for_again_soon() -> None:
    """An exact answer is kept for a minute, an inexact one for a second."""
    exact, inexact = SlowLink((0.0, 0.0)), SlowLink((0.02, 0.02))
    servers = [clock_of(exact), clock_of(inexact)]
    for _ in range(2):
        for server in servers:
            await server.latest()
        await asyncio.sleep(jetstream.CLOCK_KEPT_INEXACT + 0.1)
    assert exact.asked == 1
    assert inexact.asked == 6
