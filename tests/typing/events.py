"""Events for outsiders as type checkers see them; read by them, never run. See api.py."""

from __future__ import annotations

from typing import assert_type

from taskcore import App
from taskcore.blocking.events import SyncEventStream
from taskcore.events import EventStream, JobEvent

app = App("memory://", heartbeat="5s")


async def hear() -> None:
    """Hear in the loop."""
    async with app.events(kinds=["job.buried"], queues="mail") as events:
        assert_type(events, EventStream)
        async for event in events:
            assert_type(event, JobEvent)
            assert_type(event.seconds, float | None)
            assert_type(event.missed, int)
    app.events(["job.buried"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.events(kinds=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def without_a_loop() -> None:
    """Hear in programs without an event loop."""
    with app.sync.events(kinds="job.buried") as events:
        assert_type(events, SyncEventStream)
        assert_type(events.get(timeout="5s"), JobEvent | None)
        for event in events:
            assert_type(event, JobEvent)
