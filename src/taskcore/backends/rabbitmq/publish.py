"""Sending jobs where they belong, and opening the queues that turn out not to be open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from taskcore.backend import Outgoing, Published, Refused, Uncertain
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.messages import Parcel, parcel_of
from taskcore.backends.rabbitmq.office import Office
from taskcore.backends.rabbitmq.publisher import LARGEST, NOWHERE, Publisher
from taskcore.backends.rabbitmq.registry import Registry
from taskcore.backends.rabbitmq.topology import Topology

__all__ = ["Sender"]

DENIED: Final = "ACCESS_REFUSED"  #: how the server says that we may not
GONE: Final = "no exchange"  #: how the server says that ours is not there: somebody has restarted it without its data
AGAIN: Final = (0.05, 0.1, 0.2, 0.4)  #: seconds before a job that was refused is sent again


class Sender:
    """Publisher and topology together.

    :param limit: ready jobs of a queue, above which the broker refuses more.
    """

    def __init__(
        self, publisher: Publisher, topology: Topology, office: Office, registry: Registry, *, limit: int | None
    ) -> None:
        self._limit = limit
        self._publisher = publisher
        self._topology = topology
        self._office = office
        self._registry = registry

    def parcel(self, job: Outgoing, *, before: int = 0, of: bytes = b"") -> Parcel:
        """A job on its way to its queue, now or later; see :func:`taskcore.backends.rabbitmq.messages.parcel_of`."""
        if job.delay <= 0:
            return parcel_of(names.JOBS, job.queue, job, before=before, of=of)
        parcel = parcel_of(names.SCHEDULE, job.queue, job, before=before, of=of)
        return _waiting(parcel, names.steps_of(min(job.delay, names.FAR)))

    async def make(self, queue: str) -> int:
        """The queue is there and as it should be; how many jobs are ready in it."""
        counted = await self._office.count(names.jobs(queue))
        if counted is None or not self._topology.knows(queue):
            await self._topology.make(queue)
        return counted or 0

    async def look(self, queue: str) -> int | None:
        """How many messages are ready in a queue of the broker."""
        return await self._office.count(queue)

    async def open(self, queue: str) -> None:
        """Jobs reach the queue, as soon as it is old enough."""
        await self._topology.open(queue, self._registry.add)

    async def send(self, parcels: Sequence[Parcel], *, copies: bool = False) -> list[Published]:
        """One answer for each, in order. Jobs for queues that are not open wait until they are.

        :param copies: they are copies of jobs that are held: a full queue takes them a moment later.
        :raises BrokerUnavailable: surely none of them was stored.
        """
        answers = await self._send(parcels, copies=copies)
        return [_denied(parcel, answer) for parcel, answer in zip(parcels, answers, strict=True)]

    async def _send(self, parcels: Sequence[Parcel], *, copies: bool) -> list[Published]:
        sent = asyncio.get_running_loop().time()
        answers = await self._publisher.send(parcels)
        if any(isinstance(answer, Uncertain) and GONE in answer.why for answer in answers):
            await self._topology.lay_again()
        if any(answer is NOWHERE for answer in answers):
            await self._again(parcels, answers, sent)
        await self._insist(parcels, answers)
        if copies and any(isinstance(answer, Refused) for answer in answers):
            full = [index for index, answer in enumerate(answers) if isinstance(answer, Refused)]
            later = [_by_a_detour(parcels[index]) for index in full]
            for index, answer in zip(full, await self._publisher.send(later), strict=True):
                answers[index] = answer
        return answers

    async def _insist(self, parcels: Sequence[Parcel], answers: list[Published]) -> None:
        """A refusal means that the queue is full, or that it has no leader at the moment; then it is sent again.

        A channel that has sent to a leader who died goes on refusing for ever, so that another one is taken.
        """
        for pause in AGAIN:
            refused = [index for index, answer in enumerate(answers) if isinstance(answer, Refused)]
            full = {queue for queue in {queue_of(parcels[index]) for index in refused} if await self._is_full(queue)}
            refused = [index for index in refused if queue_of(parcels[index]) not in full and _may_pass(parcels[index])]
            if not refused:
                return
            await asyncio.sleep(pause)
            await self._publisher.renew()
            again = await self._publisher.send([parcels[index] for index in refused])
            for index, answer in zip(refused, again, strict=True):
                answers[index] = answer

    async def _is_full(self, queue: str) -> bool:
        """Whether its limit is reached, as far as it can be seen."""
        if self._limit is None:
            return False
        ready = await self._office.count(names.jobs(queue))
        return ready is not None and ready >= self._limit

    async def _again(self, parcels: Sequence[Parcel], answers: list[Published], sent: float) -> None:
        """Open the queues that are not open, and send once more what came back."""
        returned = [index for index, answer in enumerate(answers) if answer is NOWHERE]
        queues = {queue_of(parcels[index]) for index in returned}
        for queue in queues:
            self._topology.shut(queue, sent)
        await asyncio.gather(*(self.open(queue) for queue in queues))
        again = await self._publisher.send([parcels[index] for index in returned])
        for index, answer in zip(returned, again, strict=True):
            answers[index] = answer


def queue_of(parcel: Parcel) -> str:
    """The queue that a message is meant for."""
    return parcel.key.removeprefix(names.dead_letters("")) if not parcel.exchange else parcel.key


def _waiting(parcel: Parcel, steps: int) -> Parcel:
    """The same with its way through the levels in its headers."""
    return msgspec.structs.replace(parcel, headers={**parcel.headers, **names.route_of(steps)})


def _may_pass(parcel: Parcel) -> bool:
    """Whether the broker would take it in better times."""
    return len(parcel.body) <= LARGEST


def _by_a_detour(parcel: Parcel) -> Parcel:
    """Through the shortest delay: there the copy is safe until its queue has room again."""
    if parcel.exchange != names.JOBS:
        return parcel
    return _waiting(msgspec.structs.replace(parcel, exchange=names.SCHEDULE), 1)


def _denied(parcel: Parcel, answer: Published) -> Published:
    """Whoever may not write to an exchange has stored nothing there, although all that he hears is a closed channel."""
    exchange = parcel.exchange or "amq.default"
    if isinstance(answer, Uncertain) and DENIED in answer.why and f"exchange '{exchange}'" in answer.why:
        return Refused(f"this user may not write to exchange {exchange}; permit it: rabbitmqctl set_permissions")
    return answer
