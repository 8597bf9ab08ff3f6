"""Administration: counts, purging, deleting, dead letters; and the connections that everything shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats
from taskcore.backends.rabbitmq.layout import LEVELS, QueueOptions, Topology, dead_queue, job_queue, level
from taskcore.backends.rabbitmq.letters import DeadLetterQueue, QueueNames, queue_of
from taskcore.backends.rabbitmq.publish import Publisher, Sender
from taskcore.backends.rabbitmq.source import RabbitSource
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.connection import Connector, ReconnectingConnection
from taskcore.toolkit.logging import logger

__all__ = ["Connections", "RabbitAdmin"]

log = logger("taskcore.backends.rabbitmq")


class Connections:
    """The three connections of an open backend and their users: a broker may block publishers, never consumers."""

    def __init__(self, connector: Connector, options: QueueOptions) -> None:
        self.connector = connector
        self.consuming = ReconnectingConnection(connector, "consume")
        self.publisher = Publisher(connector)
        self.admin = AdminChannel(connector)
        self.queue_names = QueueNames(self.admin, self.publisher)
        self.topology = Topology(self.admin, options, self.queue_names.add)
        self.sender = Sender(self.publisher, self.topology, self.admin, limit=options.limit)
        self.dead_letters = DeadLetterQueue(self.admin, self.sender)

    async def close(self) -> None:
        """Close all of them."""
        await self.topology.close()
        await asyncio.gather(self.consuming.close(), self.publisher.connection.close(), self.admin.close())


class RabbitAdmin:
    """See :class:`taskcore.backend.Admin`.

    Scheduled jobs, and jobs held by other processes, are not visible; no job can be found or removed by its id.

    :param connections: returns those of the open backend.
    :param sources: the backend's own set of sources.
    """

    def __init__(self, connections: Callable[[], Connections], sources: Collection[RabbitSource]) -> None:
        self._connections = connections
        self._sources = sources

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        known = await self._connections().queue_names.read()
        return sorted([queue for queue in known if await self._count(job_queue(queue)) is not None])

    async def stats(self, queue: str) -> QueueStats:
        """Count ready jobs, dead letters, and the jobs that this connection holds.

        Not counted: dead letters that are being browsed, and those of a queue whose node has just started.

        :raises BrokerUnavailable: the ready jobs cannot be counted, because the queue has no leader.
        """
        while True:
            before = self._held(queue)
            ready = await self._ready(queue)
            for source in tuple(self._sources) if not ready else ():
                await source.sync(queue)
            held = self._held(queue)
            if ready or held or not before:  # else a job that was held may be ready again
                break
        dead = await self._count(dead_queue(queue))
        return QueueStats(ready=ready, leased=held, scheduled=0, dead=dead or 0)

    async def _ready(self, queue: str) -> int:
        """Count ready jobs; a count of 0 is verified."""
        admin, name = self._connections().admin, job_queue(queue)
        counted = await admin.count(name)
        if counted is None or counted:
            return counted or 0
        return 0 if await admin.is_empty(name) else await admin.count(name) or 1

    def _held(self, queue: str) -> int:
        return sum(source.held.get(queue, 0) for source in self._sources)

    async def _count(self, name: str) -> int | None:
        return await self._connections().admin.count(name)

    async def purge(self, queue: str) -> int:
        """Discard all ready jobs; not scheduled ones, nor those that other processes have prefetched.

        All queues share the delay levels, and the broker cannot take one queue's jobs out of them. A warning says how
        many jobs wait there, for this queue or another.
        """
        if await self._count(job_queue(queue)) is None:
            return 0
        scheduled = await self._scheduled()  # first: what becomes due meanwhile is purged with the rest
        for source in tuple(self._sources):
            if queue in source.held:
                await source.return_prefetched()

        async def purge(channel: AbstractChannel) -> int:
            try:
                purged = await (await channel.get_queue(job_queue(queue), ensure=False)).purge()
            except ChannelNotFoundEntity:
                return 0
            return int(purged.message_count or 0)

        purged = await self._connections().admin.call(f"purging queue {queue}", purge)
        if scheduled:
            log.warning(
                "queue %s: %s ready jobs were purged; scheduled jobs cannot be purged and run when they are due: "
                "%s wait in this virtual host, for this queue or another",
                queue,
                purged,
                scheduled,
            )
        return purged

    async def _scheduled(self) -> int:
        """Count the jobs in the delay levels, of all queues, in the order of their way: no job slips past."""
        return sum([await self._count(level(number)) or 0 for number in reversed(range(LEVELS))])

    async def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters; its scheduled jobs are put aside when they are due."""
        await self._connections().topology.delete(queue)
        await self._connections().queue_names.remove(queue)

    async def remove(self, queue: str, job_id: str) -> bool:  # noqa: ARG002 - the broker cannot find a job
        """Return False: the broker cannot find a job by its id."""
        return False

    async def locate(self, queue: str, job_id: str) -> Place | None:  # noqa: ARG002 - as above
        """Return None: unknown."""
        return None

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        return await self._connections().dead_letters.page(queue, limit, after)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        return await self._connections().dead_letters.get(letter_id) if queue_of(letter_id) else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job, then drop the letter."""
        return await self._connections().dead_letters.replay(letter_id, job)

    async def drop(self, letter_id: str) -> bool:
        """Drop a dead letter; return False if there is none of that id."""
        return await self._connections().dead_letters.drop(letter_id) if queue_of(letter_id) else False
