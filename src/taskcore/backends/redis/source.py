"""RedisSource: taking jobs under a lease, and settling them.

A source has two kinds of connections: one that waits, and others for everything else. Only the first ever blocks, and
it carries no jobs: it waits for a token that says "look again". A receive that is cancelled loses nothing.

A lost reply may have contained jobs. Each hand-out has a token of its own, and the next ``receive`` names the tokens of
hand-outs whose replies were lost: the script hands those jobs out again at once, without counting a redelivery. If that
reply is lost, too, it may be larger than the server sends, or than comes in time: fewer jobs are taken. One that cannot
be had alone is put off and told, so others do not wait behind it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Final, Self

import anyio

from taskcore.backend import Delivery
from taskcore.backends.redis.consumer import QueueChooser, Wakeups
from taskcore.backends.redis.layout import ASIDE, RECEIVE, QueueKeys
from taskcore.backends.redis.messages import delivery_of
from taskcore.backends.redis.settle import RedisSettler, ticket_of
from taskcore.connections.redis import RedisLink, ReplyLost
from taskcore.connections.redis.large_replies import SENT_ALWAYS, UNSENT, UNSENT_FIX
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Verdict
from taskcore.toolkit.logging import logger

__all__ = ["RedisSource"]

log = logger("taskcore.backends.redis")

RECEIVE_LIMIT: Final = 200  #: jobs in one receive; more would keep the server from others, and are slower, too
MORE_THAN_CHANCE: Final = 2  #: lost replies in a row, after which they are taken for too large
CUTS_IN_A_ROW: Final = 12  #: after which a server that ends each connection counts as lost; halving 200 takes fewer
NARROW_FOR: Final = 60.0  #: seconds for which fewer are taken, and for which a job that is too large is put off


class RedisSource:
    """One consumer of some queues. Use it with ``async with``.

    :param name: no other source has it.
    """

    def __init__(self, link: RedisLink, queues: Mapping[str, QueueKeys], lease: float, name: str) -> None:
        self._link = link
        self._queues = queues
        self._lease = math.ceil(lease * 1000)
        self._name = name
        self._numbers = count(1)
        self._lost: dict[str, list[bytes]] = {}  # queue → tokens of hand-outs whose replies were lost
        self._losses = 0  # replies that were lost in a row
        self._asked = self._most = RECEIVE_LIMIT  # jobs in the last receive, and at most
        self._narrowed = -math.inf  # when they became fewer because the server ends connections
        self._seen: set[str] = set()  # queues that existed at the last look
        self._receiving = anyio.Lock()
        self._chooser = QueueChooser(link, queues, lease, f"take {name}")
        self._wakeups = Wakeups(link, queues, name)
        self._settler = RedisSettler(link, queues, self._lease, name, self._log_disappeared)

    async def __aenter__(self) -> Self:
        self._wakeups.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with anyio.CancelScope(shield=True):  # each step ends by itself, and none may be left out
            await self._wakeups.close()
            await self._link.hang_up(f"take {self._name}")
            await self._settler.close()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one delivery; wait for a publish, a due time or the end of a lease.

        :raises BrokerUnavailable: Redis cannot be reached.
        """
        async with self._receiving:
            woken: Collection[str] = ()
            while True:
                chosen = await self._chooser.choose(woken, self._lost)
                taken = await self._take_from(chosen, limit)
                if taken:
                    return taken
                woken = await self._wakeups.wait(self._chooser.pause)

    async def _take_from(self, queues: Sequence[str], limit: int) -> Sequence[Delivery]:
        """Lease jobs of these queues, earlier queues first; an error comes only if there are no jobs."""
        taken: list[Delivery] = []
        for queue in queues:
            found, due, asked = list[Delivery](), math.inf, anyio.current_time()
            try:
                with anyio.CancelScope(shield=True):  # leased jobs are returned, even if the caller is cancelled
                    found, due = await self._take(queue, min(limit - len(taken), RECEIVE_LIMIT))
                    if found and (anyio.current_time() - asked) * 2000 > self._lease:
                        found = await self._still_ours(found)
            except BrokerUnavailable:
                if not taken:
                    raise
                break
            taken += found
            self._chooser.note(due)
            if len(taken) >= limit:
                break
        return taken

    async def _still_ours(self, found: list[Delivery]) -> list[Delivery]:
        """Renew the leases of a reply that was read late: the loop stood still, and some may have ended since."""
        lost = await self._settler.extend(found)
        return [each for each in found if each not in lost]

    async def _take(self, queue: str, limit: int) -> tuple[list[Delivery], float]:
        """Lease jobs of the queue; return them, and in how many seconds there may be more."""
        while True:
            self._asked = (
                min(limit, self._most) if self._losses < MORE_THAN_CHANCE else await self._fitting(queue, limit)
            )
            try:
                return await self._take_at_once(queue, self._queues[queue], self._asked)
            except ReplyLost as lost:
                self._losses += 1
                if lost.cut and self._losses >= MORE_THAN_CHANCE:
                    self._narrowed = anyio.current_time()
                if not lost.cut or self._losses > CUTS_IN_A_ROW:
                    raise

    async def _fitting(self, queue: str, limit: int) -> int:
        """Return how many jobs to take after lost replies: fewer; put off one that was alone in the last of them."""
        if self._asked > 1:
            self._most = self._asked // 2
        elif queue in self._lost:
            values = self._lost[queue][-1], SENT_ALWAYS, math.ceil(NARROW_FOR * 1000)
            [aside] = await self._link.run(f"take {self._name}", ASIDE, self._queues[queue].aside, values)
            if aside is not None:
                self._log_put_off(queue, *aside)
                self._losses, self._most = 0, RECEIVE_LIMIT
        return min(limit, self._most)

    async def _take_at_once(self, queue: str, keys: QueueKeys, limit: int) -> tuple[list[Delivery], float]:
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
        self._losses = 0
        if self._most < RECEIVE_LIMIT and anyio.current_time() > self._narrowed + NARROW_FOR:
            self._most = min(2 * self._most, RECEIVE_LIMIT)
        fresh, again, gone, due, renewed, more = reply
        if gone:
            self._log_disappeared(queue, gone, more)
        if renewed:
            self._log_renewed(queue, renewed)
        else:
            self._seen.add(queue)
        suffix = b" " + token
        deliveries: list[Delivery] = []
        for entry, redeliveries, fields in again:
            deliveries.append(delivery_of(queue, entry, fields, redeliveries, suffix))
        for entry, fields in fresh:
            deliveries.append(delivery_of(queue, entry, fields, 0, suffix))
        return deliveries, math.inf if due < 0 else due / 1000

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe.
        """
        return await self._settler.settle(batch)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the leases; return the deliveries whose lease was lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        return await self._settler.extend(batch)

    # ── leases that another thread extends ──

    def ticket(self, delivery: Delivery) -> bytes:
        """Return what an extender needs to know of this lease."""
        return ticket_of(delivery)

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Do nothing: the server alone knows when leases end."""

    def stood_still(self, seconds: float) -> None:
        """Do nothing: see ``_still_ours``."""

    # ── what should never happen is logged, and work goes on (C19) ──

    def _log_put_off(self, queue: str, entry: bytes, job: bytes, size: int) -> None:
        log.error(
            "job %s of queue %s (entry %s) has %d bytes, %s, or than comes within the timeout; "
            "it is tried again in %g s, other jobs go on; fix: %s",
            job.decode(errors="replace") or "?", queue, entry.decode(errors="replace"), size, UNSENT, NARROW_FOR,
            UNSENT_FIX,
        )  # fmt: skip

    def _log_disappeared(self, queue: str, gone: Sequence[bytes], more: int = 0) -> None:
        log.error(
            "%d jobs of queue %s have disappeared from Redis: %s; something trims, evicts or deletes keys there",
            len(gone) + more, queue, ", ".join(one.decode(errors="replace") for one in gone[:10]),
        )  # fmt: skip

    def _log_renewed(self, queue: str, renewed: int) -> None:
        if queue not in self._seen:
            return
        if renewed == 1:
            log.error("the consumer group of queue %s was deleted; created it again at the last job handed out", queue)
        else:
            self._seen.discard(queue)
            log.error("queue %s has disappeared from Redis, with all its jobs: deleted, flushed or evicted", queue)
