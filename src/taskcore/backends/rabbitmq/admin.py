"""For people: counts, purging, deleting, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from aiormq.exceptions import ChannelNotFoundEntity

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.letters import queue_of
from taskcore.backends.rabbitmq.parts import Parts
from taskcore.backends.rabbitmq.source import RabbitSource
from taskcore.toolkit.logging import logger

__all__ = ["RabbitAdmin"]

log = logger("taskcore.rabbitmq")


class RabbitAdmin:
    """See :class:`taskcore.backend.Admin`.

    What is scheduled or held elsewhere cannot be seen, and no job can be found or taken back by its id.

    :param parts: the connections of the backend, while it is open.
    :param sources: its sources.
    """

    def __init__(self, parts: Callable[[], Parts], sources: Callable[[], Collection[RabbitSource]]) -> None:
        self._parts = parts
        self._sources = sources

    async def queues(self) -> Sequence[str]:
        """The queues that exist."""
        known = await self._parts().registry.read()
        return sorted([queue for queue in known if await self._parts().office.count(names.jobs(queue)) is not None])

    async def stats(self, queue: str) -> QueueStats:
        """How many jobs are ready and dead; held ones are those of this connection, scheduled ones cannot be seen.

        Dead letters that somebody looks through in this moment are not counted, nor those of a queue whose node has
        just started.

        :raises BrokerUnavailable: nobody knows how many are ready, because the queue has no leader.
        """
        while True:
            before = self._held(queue)
            ready = await self._ready(queue)
            for source in tuple(self._sources()) if not ready else ():
                await source.hear(queue)
            held = self._held(queue)
            if ready or held or not before:  # else one that was held is perhaps ready again
                break
        dead = await self._parts().office.count(names.dead_letters(queue))
        return QueueStats(ready=ready, leased=held, scheduled=0, dead=dead or 0)

    async def _ready(self, queue: str) -> int:
        """How many jobs are ready; that there are none is asked for twice."""
        office, name = self._parts().office, names.jobs(queue)
        counted = await office.count(name)
        if counted is None or counted:
            return counted or 0
        return 0 if await office.is_empty(name) else await office.count(name) or 1

    def _held(self, queue: str) -> int:
        return sum(source.held.get(queue, 0) for source in self._sources())

    async def purge(self, queue: str) -> int:
        """Forget all ready jobs; scheduled ones, and what was pushed to other connections, cannot be reached.

        All queues share the delay levels, and the broker cannot take one queue's jobs out of them. If anything waits
        there at all, that is said in the log: some of it may be of this queue.
        """
        if await self._parts().office.count(names.jobs(queue)) is None:
            return 0
        waiting = await self._scheduled()  # first: what becomes due meanwhile is purged with the rest
        for source in tuple(self._sources()):
            if queue in source.held:
                await source.recall()

        async def question(channel: Any) -> int:
            try:
                purged = await channel.queue_purge(names.jobs(queue))
            except ChannelNotFoundEntity:
                return 0
            return int(purged.message_count or 0)

        purged = await self._parts().office.ask(f"purging queue {queue}", question)
        if waiting:
            log.warning(
                "queue %s: %s ready jobs are purged; scheduled ones cannot be reached and come when they are due: "
                "%s wait in this virtual host, for this queue or another",
                queue,
                purged,
                waiting,
            )
        return purged

    async def _scheduled(self) -> int:
        """How many jobs wait in the delay levels, for any queue; the way they go, so that none slips past."""
        counts = [await self._parts().office.count(names.level(number)) for number in reversed(range(names.LEVELS))]
        return sum(count or 0 for count in counts)

    async def delete(self, queue: str) -> None:
        """Forget the queue and its dead letters; jobs that are scheduled for it are put aside when they are due."""
        await self._parts().topology.delete(queue)
        await self._parts().registry.remove(queue)

    async def remove(self, queue: str, job_id: str) -> bool:  # noqa: ARG002 - the broker cannot find a job
        """Never: the broker cannot find a job by its id."""
        return False

    async def locate(self, queue: str, job_id: str) -> Place | None:  # noqa: ARG002 - as above
        """Unknown, always."""
        return None

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Dead letters, oldest first, a page at a time."""
        return await self._parts().letters.page(queue, limit, after)

    async def letter(self, letter_id: str) -> Letter | None:
        """One dead letter."""
        return await self._parts().letters.one(letter_id) if queue_of(letter_id) else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job, then drop the letter."""
        return await self._parts().letters.replay(letter_id, self._parts().sender.parcel(job))

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter."""
        return await self._parts().letters.drop(letter_id) if queue_of(letter_id) else False
