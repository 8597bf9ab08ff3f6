"""SqliteSource: taking jobs under a lease, and settling them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import anyio

from taskcore.backend import Delivery
from taskcore.backends.sql.messages import Receipt, TicketedSource, effect_of, read_ticket
from taskcore.backends.sql.sqlite import ledger
from taskcore.backends.sql.sqlite.consumer import SqliteQueues
from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.works import ValueRefused
from taskcore.lifecycle import Verdict

__all__ = ["SqliteExtender", "SqliteSource"]

RECEIVE_LIMIT: Final = 500  #: jobs in one transaction
LONGEST_WAIT: Final = 2.5  #: seconds; an idle source looks this often for leases that have ended
SHORTEST_WAIT: Final = 0.001  #: seconds
READY_FIRST_EVERY: Final = 4  #: of so many looks one leaves room for jobs without a time: others may come without end
LOST_TOKENS: Final = 50  #: tokens of lost answers that are remembered


class SqliteSource(TicketedSource):
    """One consumer of some queues."""

    def __init__(self, file: SqliteQueues, queues: Sequence[str], lease: float) -> None:
        self._file = file
        self._queues = list(dict.fromkeys(queues))
        self._lease = lease
        self._lost: list[int] = []  # tokens of claims whose answers were lost
        self._receiving = anyio.Lock()
        self._turn = 0

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one delivery; wait for a publish, a due time or the end of a lease.

        :raises BrokerUnavailable: the file cannot be used.
        """
        async with self._receiving:
            while True:
                taken = await self._take(limit)
                if taken:
                    return taken
                event = await self._file.sleep()
                try:
                    due = await self._file.look(lambda connection, now: ledger.next_due(connection, now, self._queues))
                    taken = await self._take(limit)
                    if taken:
                        return taken
                    longest = min(LONGEST_WAIT, self._lease / 3)
                    with anyio.move_on_after(max(longest if due is None else min(longest, due), SHORTEST_WAIT)):
                        await event.wait()
                finally:
                    self._file.awake(event)

    async def _take(self, limit: int) -> Sequence[Delivery]:
        self._turn += 1
        limit = min(limit, RECEIVE_LIMIT)
        late = limit // 2 if self._turn % READY_FIRST_EVERY == 0 else limit
        taken = await self._claim(limit, late)
        if not taken and late < limit:
            taken = await self._claim(limit, limit)
        return taken

    async def _claim(self, limit: int, late: int) -> list[Delivery]:
        await anyio.lowlevel.checkpoint_if_cancelled()  # a worker that stops would have its own jobs back
        began, found = anyio.current_time(), list[Delivery]()
        with anyio.CancelScope(shield=True):  # leased jobs are returned, even if the caller is cancelled
            found = await self._ask(limit, late)
            if found and (anyio.current_time() - began) * 2 > self._lease:  # the loop stood still: some may have ended
                gone = await self.extend(found)
                found = [delivery for delivery in found if delivery not in gone]
        return found

    async def _ask(self, limit: int, late: int) -> list[Delivery]:
        token, lost, queues = secrets.randbits(62) + 1, self._lost, self._queues
        try:
            found: list[Delivery] = await self._file.do(
                lambda connection, now: ledger.claim(
                    connection, now, queues, limit=limit, late=late, lease=self._lease, token=token, lost=lost
                ),
                needed=lambda connection, now: bool(ledger.has_work(connection, now, queues, lost)),
                nothing=list[Delivery](),
            )
        except BaseException:
            self._lost = [*lost, token][-LOST_TOKENS:]
            raise
        self._lost = []
        return found

    # ── settling ──

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe.
        :raises VerdictRefused: a job would be too large with its new trail.
        """
        if not batch:
            return []
        told = [(delivery.receipt, effect_of(delivery, verdict)) for delivery, verdict in batch]
        done = await self._file.do(lambda connection, now: ledger.settle(connection, now, told))
        if any(effect.returns for _, effect in told):
            self._file.wake()
        return [delivery for delivery, _ in batch if delivery.receipt.job not in done]

    async def settle_together(self, batch: Sequence[tuple[Delivery, Verdict]], also: Callable[..., Any]) -> Any:
        """See :class:`taskcore.joint_ends.SettlesTogether`."""
        told = [(delivery.receipt, effect_of(delivery, verdict)) for delivery, verdict in batch]
        try:
            return await self._file.do(lambda connection, now: ledger.settle_together(connection, now, told, also))
        except ValueRefused:
            return None
        finally:
            if any(effect.returns for _, effect in told):
                self._file.wake()

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the leases; return the deliveries whose lease was lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        if not batch:
            return []
        held: list[Receipt] = [delivery.receipt for delivery in batch]
        done = await self._file.do(lambda connection, now: ledger.extend(connection, now, held, self._lease))
        return [delivery for delivery in batch if delivery.receipt.job not in done]


class SqliteExtender:
    """Renews leases by their tickets, over a connection of its own. Use it with ``async with``.

    :param lease: seconds.
    """

    def __init__(self, address: SqliteAddress, lease: float) -> None:
        self._file = SqliteQueues(address)
        self._lease = lease

    async def __aenter__(self) -> Self:
        await self._file.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._file.close()

    async def extend(self, tickets: Sequence[bytes]) -> list[bytes]:
        """Renew the leases; return the tickets of those that were lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        held = [read_ticket(ticket) for ticket in tickets]
        done = await self._file.do(lambda connection, now: ledger.extend(connection, now, held, self._lease))
        return [ticket for ticket, one in zip(tickets, held, strict=True) if one.job not in done]
