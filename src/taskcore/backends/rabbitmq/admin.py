"""Administration: counts, purging, deleting, dead letters; and the connections that everything shares."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity

from taskcore.backend import DUPLICATE, Letter, Outgoing, Place, Published, QueueStats
from taskcore.backends.rabbitmq.layout import LEVELS, QueueOptions, dead_queue, job_queue, level
from taskcore.backends.rabbitmq.letters import RabbitWalk, browse_names, browse_page, queue_of, walk_letters
from taskcore.backends.rabbitmq.publish import Sender
from taskcore.backends.rabbitmq.source import RabbitSource
from taskcore.connections.amqp.admin_channel import CALLS_AT_ONCE, AdminChannel
from taskcore.connections.amqp.connection import Connector, ReconnectingConnection
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.logging import logger

__all__ = ["Connections", "RabbitAdmin"]

log = logger("taskcore.backends.rabbitmq")


class Connections:
    """The three connections of an open backend: a broker may block publishers, never consumers."""

    def __init__(self, connector: Connector, options: QueueOptions) -> None:
        self.connector = connector
        self.admin = AdminChannel(connector)
        self.sender = Sender(self.admin, options)
        self.consuming = ReconnectingConnection(connector, "consume")
        self.all = (self.consuming, self.sender.connection, self.admin.connection)

    async def close(self) -> None:
        """Close all of them."""
        await self.sender.topology.close()
        await asyncio.gather(self.consuming.close(), self.sender.connection.close(), self.admin.close())


class RabbitAdmin:
    """See :class:`taskcore.backend.Admin`.

    Scheduled jobs, and jobs held by other processes, are not visible; no job can be found or removed by its id.

    :param sources: the backend's own.
    """

    def __init__(self, connections: Connections, sources: Collection[RabbitSource]) -> None:
        self._admin = connections.admin
        self._sender = connections.sender
        self._sources = sources

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        known = await browse_names(self._admin)
        return sorted([queue for queue in known if await self._admin.count(job_queue(queue)) is not None])

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Count ready jobs, dead letters, and the jobs that this connection holds, in each queue.

        Not counted: dead letters that are being browsed, and those of a queue whose node has just started.

        :raises BrokerUnavailable: the ready jobs cannot be counted, because a queue has no leader.
        """
        return await gather_limited(self._stats, queues, limit=CALLS_AT_ONCE)

    async def _stats(self, queue: str) -> QueueStats:
        while True:
            before = self._held(queue)
            ready = await self._ready(queue)
            for source in tuple(self._sources) if not ready else ():
                await source.sync(queue)
            held = self._held(queue)
            if ready or held or not before:  # else a job that was held may be ready again
                break
        dead = await self._admin.count(dead_queue(queue))
        return QueueStats(ready=ready, leased=held or None, scheduled=None, dead=dead or 0)

    async def _ready(self, queue: str) -> int:
        """Count ready jobs; a count of 0 is verified."""
        name = job_queue(queue)
        counted = await self._admin.count(name)
        if counted == 0 and not await self._admin.is_empty(name):
            return await self._admin.count(name) or 1
        return counted or 0

    def _held(self, queue: str) -> int:
        return sum(source.held.get(queue, 0) for source in self._sources)

    async def purge(self, queue: str) -> int:
        """Discard all ready jobs; not scheduled ones, nor those that other processes have prefetched.

        All queues share the delay levels, and the broker cannot take one queue's jobs out of them. A warning says how
        many jobs wait there, for this queue or another.
        """
        if await self._admin.count(job_queue(queue)) is None:
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

        purged = await self._admin.call(f"purging queue {queue}", purge)
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
        return sum([await self._admin.count(level(number)) or 0 for number in reversed(range(LEVELS))])

    async def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters; its scheduled jobs are put aside when they are due."""
        await self._sender.topology.delete(queue)
        await browse_names(self._admin, without=queue)

    async def remove(self, queue: str, job_id: str) -> bool:  # noqa: ARG002 - the broker cannot find a job
        """Return False: the broker cannot find a job by its id."""
        return False

    async def locate(self, queue: str, job_id: str) -> Place | None:  # noqa: ARG002 - as above
        """Return None: unknown."""
        return None

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        async with self.walk(queue) as walk:
            return await browse_page(walk, limit, after)

    def walk(self, queue: str) -> AbstractAsyncContextManager[RabbitWalk]:
        """Begin a pass over dead letters, which others do not see until it is left."""
        return walk_letters(self._admin, queue, self._sender.send)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter; it costs a pass up to that letter."""
        async with self.walk(queue_of(letter_id)) as walk:
            return await walk.find(letter_id)

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job, then drop the letter; a letter that is gone was replayed or dropped before."""
        async with self.walk(queue_of(letter_id)) as walk:
            letter = await walk.find(letter_id)
            if letter is None:
                return DUPLICATE
            [answer] = await walk.replay([(letter, job)])
            return answer

    async def drop(self, letter_id: str) -> bool:
        """Drop a dead letter; return False if there is none of that id."""
        async with self.walk(queue_of(letter_id)) as walk:
            letter = await walk.find(letter_id)
            return letter is not None and await walk.drop([letter]) > 0
