"""The connections of an open backend, and what uses them: made at each opening, thrown away at each closing."""

from __future__ import annotations

import asyncio

from taskcore.backends.rabbitmq.letters import Letters
from taskcore.backends.rabbitmq.office import Line, Office
from taskcore.backends.rabbitmq.options import Options
from taskcore.backends.rabbitmq.publish import Sender
from taskcore.backends.rabbitmq.publisher import Publisher
from taskcore.backends.rabbitmq.registry import Registry
from taskcore.backends.rabbitmq.topology import Topology
from taskcore.connections.amqp.connection import Link

__all__ = ["Parts"]


class Parts:
    """Three connections, each for one thing: sending may be blocked, consuming must not be, looking may be slow."""

    def __init__(self, link: Link, options: Options) -> None:
        self.link = link
        self.line = Line(link, "consume")
        self.publisher = Publisher(link)
        self.office = Office(link)
        self.topology = Topology(self.office, options)
        self.registry = Registry(self.office, self.publisher)
        self.sender = Sender(self.publisher, self.topology, self.office, self.registry, limit=options.limit)
        self.letters = Letters(self.office, self.sender)

    async def close(self) -> None:
        """Hang up."""
        await self.topology.close()
        await asyncio.gather(self.line.close(), self.publisher.close(), self.office.close())
