"""Sleeping until another program notifies: one connection listens for all that sleeps."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.listener import PostgresListener

__all__ = ["PostgresSleepers"]


class PostgresSleepers:
    """What sleeps until something of its topics is notified, and the connection that listens for all of it.

    :param channel: where each notification is the name of a topic.
    """

    def __init__(self, address: PostgresAddress, channel: str) -> None:
        self._sleepers: dict[anyio.Event, frozenset[str]] = {}
        self._members = 0
        self._listener = PostgresListener(
            address,
            channel,
            is_needed=lambda: self._members > 0,
            begun=self._wake_all,
            received=self._received,
            failed=lambda _: None,  # a sleeper looks by itself now and then, meets the same trouble, and says so
        )

    async def close(self) -> None:
        """Stop listening."""
        await self._listener.close()

    def join(self) -> None:
        """Count one more that may sleep."""
        self._members += 1

    def leave(self) -> None:
        """Count one less."""
        self._members -= 1

    async def listen(self) -> None:
        """Wait until notifications come.

        :raises BrokerUnavailable: the server cannot be listened to now.
        """
        await self._listener.begin()

    def sleep(self, topics: Iterable[str]) -> anyio.Event:
        """Return an event that is set when one of the topics may be notified; give it back to ``awake``."""
        event = anyio.Event()
        self._sleepers[event] = frozenset(topics)
        return event

    def awake(self, event: anyio.Event) -> None:
        """Forget a sleeper."""
        self._sleepers.pop(event, None)

    async def _received(self, topic: str) -> None:
        for event, topics in self._sleepers.items():
            if topic in topics:
                event.set()

    async def _wake_all(self) -> None:
        for event in self._sleepers:
            event.set()
