"""Settling and extending: verdicts and leases, a script for each queue and each 500 of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Self, TypeVar

from taskcore.backend import Delivery
from taskcore.backends.redis.layout import EXTEND, SETTLE, QueueKeys
from taskcore.backends.redis.messages import effect_of
from taskcore.connections.redis import RedisLink
from taskcore.lifecycle import Ack, Verdict
from taskcore.toolkit.logging import logger

__all__ = ["RedisExtender", "RedisSettler", "ticket_of"]

log = logger("taskcore.backends.redis")

T = TypeVar("T")

SCRIPT_JOBS: Final = 500  #: jobs in one script


class RedisSettler:
    """Carries out verdicts and renews leases for one source.

    :param name: of the source; it has a connection of its own for this.
    :param disappeared: is called with a queue and its entries that are gone.
    """

    def __init__(
        self,
        link: RedisLink,
        queues: Mapping[str, QueueKeys],
        lease: int,
        name: str,
        disappeared: Callable[[str, Sequence[bytes]], None],
    ) -> None:
        self._link = link
        self._queues = queues
        self._lease = lease
        self._purpose = f"settle {name}"
        self._disappeared = disappeared

    async def close(self) -> None:
        """Disconnect."""
        await self._link.hang_up(self._purpose)

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe.
        """
        lost: list[Delivery] = []
        for queue, part in _portions(batch, [delivery.queue for delivery, _ in batch]):
            lost += await self._settle(queue, part)
        return lost

    async def _settle(self, queue: str, part: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        # Nearly all verdicts are acks of our own jobs: they travel as columns, the others one by one.
        acks = [delivery for delivery, verdict in part if type(verdict) is Ack and delivery.receipt[2]]
        columns = zip(*[delivery.receipt for delivery in acks], strict=True)
        arguments: list[Any] = [len(acks), *chain.from_iterable(columns)]
        others: list[Delivery] = []
        if len(acks) < len(part):
            for delivery, verdict in part:
                if type(verdict) is not Ack or not delivery.receipt[2]:
                    others.append(delivery)
                    arguments += (*delivery.receipt, *effect_of(verdict))
        [(lost, gone, stuck)] = await self._link.run(self._purpose, SETTLE, self._queues[queue].settle, arguments)
        if gone:
            self._disappeared(queue, gone)
        if stuck:
            log.error(
                "%d jobs of queue %s cannot be settled: an entry of another program has the last id of its stream of "
                "dead letters, or of jobs; XDEL it", stuck, queue,
            )  # fmt: skip
        return [acks[index] if index < len(acks) else others[index - len(acks)] for index in lost]

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the leases; return the deliveries whose lease was lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        lost: list[Delivery] = []
        for queue, part in _portions(batch, [delivery.queue for delivery in batch]):
            arguments = [self._lease, *(delivery.receipt[0] for delivery in part)]
            [gone] = await self._link.run(self._purpose, EXTEND, self._queues[queue].extend, arguments)
            lost += [part[index] for index in gone]
        return lost


def ticket_of(delivery: Delivery) -> bytes:
    """Return what an extender needs to know of a lease: its queue, and its name there."""
    lease: bytes = delivery.receipt[0]
    return delivery.queue.encode() + b"\n" + lease


class RedisExtender:
    """Renews leases by their tickets, over a connection of its own. Use it with ``async with``.

    :param lease: milliseconds.
    """

    def __init__(self, url: str, lease: int) -> None:
        self._link = RedisLink(url)
        self._lease = lease

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._link.close()

    async def extend(self, tickets: Sequence[bytes]) -> list[bytes]:
        """Renew the leases; return the tickets of those that were lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        parts = [ticket.decode().split("\n", 1) for ticket in tickets]
        lost: list[bytes] = []
        for queue, part in _portions([lease for _, lease in parts], [queue for queue, _ in parts]):
            keys = QueueKeys(self._link.options.prefix, queue)
            [gone] = await self._link.run("keep", EXTEND, keys.extend, [self._lease, *part])
            lost += [f"{queue}\n{part[index]}".encode() for index in gone]
        return lost


def _portions(batch: Sequence[T], queues: Sequence[str]) -> list[tuple[str, Sequence[T]]]:
    """Group the items by queue, as many in a group as one script takes.

    :param queues: the queue of each item.
    """
    if len(batch) <= SCRIPT_JOBS and len(set(queues)) == 1:  # as nearly always
        return [(queues[0], batch)]
    by_queue: dict[str, list[T]] = {}
    for one, queue in zip(batch, queues, strict=True):
        by_queue.setdefault(queue, []).append(one)
    return [
        (queue, part[start : start + SCRIPT_JOBS])
        for queue, part in by_queue.items()
        for start in range(0, len(part), SCRIPT_JOBS)
    ]
