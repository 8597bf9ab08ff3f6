"""RedisSource: taking jobs under a lease, and telling what became of them.

Two connections: one that waits, one for everything else. Only the first ever blocks, and nothing of value travels on
it: what it waits for is a token that says "look again". So whoever stops waiting loses nothing.

A reply that is lost may have contained jobs. Each hand-out has a token of its own, and the next ``receive`` names the
tokens of hand-outs whose replies never came: the script hands those jobs out again at once, and blames nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, assert_never

import anyio

from taskcore.backend import Delivery
from taskcore.backends.redis.layout import EXTEND, RECEIVE, SETTLE, Keys
from taskcore.backends.redis.waiting import Waiting
from taskcore.connections.redis import RedisLink, ReplyLost
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.logging import logger

__all__ = ["RedisSource"]

log = logger("taskcore.backends.redis")

BATCH: Final = 500  #: jobs in one script
ASKED: Final = 200  #: jobs that are asked for at once; more would keep the server from others, and are slower, too


class Receipt(NamedTuple):
    """The proof of a lease: its name, which holds the entry and the token of the hand-out, and whose it is."""

    lease: bytes
    entry: bytes
    id: bytes


class RedisSource:
    """One consumer's hold on some queues. Use it with ``async with``.

    :param name: no other source has it.
    """

    def __init__(self, link: RedisLink, queues: Mapping[str, Keys], lease: float, name: str) -> None:
        self._link = link
        self._queues = queues
        self._lease = math.ceil(lease * 1000)
        self._name = name
        self._numbers = count(1)
        self._lost: dict[str, list[bytes]] = {}  # queue → tokens of hand-outs whose replies were lost
        self._seen: set[str] = set()  # queues that were there when we last looked
        self._receiving = anyio.Lock()
        self._waiting = Waiting(link, queues, lease, name)

    async def __aenter__(self) -> Self:
        await self._waiting.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # each step ends by itself; none may be left out
            await self._waiting.__aexit__(kind, error, traceback)
            await self._link.hang_up(f"take {self._name}")
            await self._link.hang_up(f"settle {self._name}")

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """At least one delivery; waits for a publish, a due time or the end of somebody's lease.

        :raises BrokerUnavailable: Redis cannot be reached.
        """
        async with self._receiving:
            while True:
                taken: list[Delivery] = []
                found: list[Delivery] = []
                pause = due = math.inf
                for queue, keys in self._queues.items():
                    with anyio.CancelScope(shield=True):  # what was leased by now is returned, whoever loses patience
                        found, due = await self._take(queue, keys, min(limit - len(taken), ASKED))
                    taken += found
                    pause = min(pause, due)
                    if len(taken) >= limit:
                        break
                if taken:
                    return taken
                await self._waiting.wait(pause)

    async def _take(self, queue: str, keys: Keys, limit: int) -> tuple[list[Delivery], float]:
        """What the queue has for us, and in how many seconds it may have more."""
        token = f"{self._name}.{next(self._numbers)}".encode()
        lost = self._lost.get(queue, [])
        try:
            [reply] = await self._link.run(
                f"take {self._name}", RECEIVE, keys.receive, (limit, self._lease, token, *lost)
            )
        except ReplyLost:
            self._lost[queue] = [*lost, token]
            raise
        self._lost.pop(queue, None)
        fresh, again, gone, due, renewed, more = reply
        if gone or renewed:
            self._alarm(queue, gone, renewed, more)
        if not renewed:
            self._seen.add(queue)
        deliveries: list[Delivery] = []
        token = b" " + token
        for entry, redeliveries, fields in again:
            deliveries.append(_delivery(queue, entry, fields, redeliveries, token))
        for entry, fields in fresh:
            deliveries.append(_delivery(queue, entry, fields, 0, token))
        return deliveries, math.inf if due < 0 else due / 1000

    def _alarm(self, queue: str, gone: Sequence[bytes], renewed: int, more: int = 0) -> None:
        """What should never happen is told, and work goes on (C19)."""
        if gone:
            log.error(
                "%d jobs of queue %s have disappeared from Redis: %s; something trims, evicts or deletes keys there",
                len(gone) + more, queue, ", ".join(one.decode(errors="replace") for one in gone[:10]),
            )  # fmt: skip
        if queue not in self._seen:
            return
        if renewed == 1:
            log.error("the consumer group of queue %s was deleted; made anew behind what was handed out", queue)
        elif renewed:
            self._seen.discard(queue)
            log.error("queue %s has disappeared from Redis, with all its jobs: deleted, flushed or evicted", queue)

    # ── settling ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; returns those whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe.
        """
        lost: list[Delivery] = []
        for queue, part in _by_queue(batch):
            for start in range(0, len(part), BATCH):
                lost += await self._settle(queue, part[start : start + BATCH])
        return lost

    async def _settle(self, queue: str, part: Sequence[tuple[Delivery, Verdict]]) -> list[Delivery]:
        # Nearly all verdicts are acks of jobs of ours; they travel as columns, the others one by one.
        acks = [delivery for delivery, verdict in part if type(verdict) is Ack and delivery.receipt[2]]
        receipts = [delivery.receipt for delivery in acks]
        arguments: list[Any] = [len(acks), *(one[0] for one in receipts), *(one[1] for one in receipts)]
        arguments += [one[2] for one in receipts]
        others: list[Delivery] = []
        if len(acks) < len(part):
            for delivery, verdict in part:
                if type(verdict) is not Ack or not delivery.receipt[2]:
                    others.append(delivery)
                    arguments += (*delivery.receipt, *_effect(verdict))
        [(lost, gone)] = await self._link.run(f"settle {self._name}", SETTLE, self._queues[queue].settle, arguments)
        if gone:
            self._alarm(queue, gone, 0)
        return [acks[index] if index < len(acks) else others[index - len(acks)] for index in lost]

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases anew; returns those that were lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        lost: list[Delivery] = []
        by_queue: dict[str, list[Delivery]] = {}
        for delivery in batch:
            by_queue.setdefault(delivery.queue, []).append(delivery)
        for queue, deliveries in by_queue.items():
            for start in range(0, len(deliveries), BATCH):
                part = deliveries[start : start + BATCH]
                arguments: list[Any] = [self._lease]
                arguments += [delivery.receipt[0] for delivery in part]
                [gone] = await self._link.run(f"settle {self._name}", EXTEND, self._queues[queue].extend, arguments)
                lost += [part[index] for index in gone]
        return lost


def _effect(verdict: Verdict) -> tuple[bytes, int, bytes, bytes]:
    """Kind, milliseconds, trail, reason: a verdict as the script wants it."""
    match verdict:
        case Reschedule(after=after, trail=trail):
            return b"r", math.ceil(after * 1000), trail, b""
        case Release():
            return b"f", 0, b"", b""
        case Bury(reason=reason, trail=trail):
            return b"d", 0, trail, reason.encode()
        case Ack():
            return b"a", 0, b"", b""
        case _:
            assert_never(verdict)


def _by_queue(batch: Sequence[tuple[Delivery, Verdict]]) -> list[tuple[str, Sequence[tuple[Delivery, Verdict]]]]:
    first = batch[0][0].queue if batch else ""
    if all(delivery.queue == first for delivery, _ in batch):
        return [(first, batch)] if batch else []
    by_queue: dict[str, list[tuple[Delivery, Verdict]]] = {}
    for one in batch:
        by_queue.setdefault(one[0].queue, []).append(one)
    return list(by_queue.items())


def _delivery(queue: str, entry: bytes, fields: list[bytes], redeliveries: int, token: bytes) -> Delivery:
    """An entry of ours has id, envelope and perhaps a trail; of anybody else's, all bytes are the envelope (C20)."""
    match fields:
        case [b"i", job_id, b"e", envelope]:
            return Delivery(queue, envelope, b"", redeliveries, Receipt(entry + token, entry, job_id))
        case [b"i", job_id, b"e", envelope, b"t", trail]:
            return Delivery(queue, envelope, trail, redeliveries, Receipt(entry + token, entry, job_id))
    return Delivery(queue, b" ".join(fields), b"", redeliveries, Receipt(entry + token, entry, b""))
