"""Counting long queues costs a small share of the time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, QueueStats
from taskcore.backends.sql import messages

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def counting(ready: int, took: float, seen: list[float]) -> Callable[[str], Awaitable[QueueStats]]:
    """Make a count that takes a while."""

    async def count(_: str) -> QueueStats:
        seen.append(time.monotonic())
        await anyio.sleep(took)
        return QueueStats(ready=ready, leased=0, scheduled=0, dead=0)

    return count


async def test_a_long_queue_is_counted_a_small_share_of_the_time():
    """Counting takes no more than a twentieth of the time, however often a caller asks."""
    counts, seen = messages.KnownCounts(), list[float]()
    count = counting(messages.LONG_QUEUE + 1, 0.02, seen)
    began = time.monotonic()
    while time.monotonic() < began + 1.0:
        assert (await counts.of("q", count)).ready == messages.LONG_QUEUE + 1
        await anyio.sleep(0.001)
    assert 1 <= len(seen) <= 3
    counts.forget("q")
    await counts.of("q", count)
    assert len(seen) > 1


async def test_a_short_queue_is_counted_each_time():
    """What is said of a short queue is true in this moment."""
    counts, seen = messages.KnownCounts(), list[float]()
    for _ in range(5):
        await counts.of("q", counting(messages.LONG_QUEUE, 0.01, seen))
    assert len(seen) == 5


async def test_purging_and_deleting_forget(url: str, monkeypatch: pytest.MonkeyPatch):
    """Counts that were remembered do not outlive a purge, nor the queue."""
    monkeypatch.setattr(messages, "LONG_QUEUE", 5)
    monkeypatch.setattr(messages, "COUNT_SHARE", 1e9)
    async with open_backend(url) as backend:
        for forget in (backend.admin.purge, backend.admin.delete):
            await backend.publish([Outgoing("q", f"{forget.__name__}{number}", b"x") for number in range(10)])
            assert (await backend.admin.stats(["q"]))[0].ready == 10
            await backend.publish([Outgoing("q", f"{forget.__name__}more", b"x")])
            assert (await backend.admin.stats(["q"]))[0].ready == 10
            await forget("q")
            assert (await backend.admin.stats(["q"]))[0].ready == 0
