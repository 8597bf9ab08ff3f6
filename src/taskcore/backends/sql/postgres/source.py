"""PostgresSource: taking jobs under a lease, and settling them.

A statement whose answer is lost may have leased jobs. Each has a token of its own, and the next one names the tokens of
those that were lost: it leases their jobs again at once, without counting a redelivery.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

import anyio
from psycopg.types.numeric import Int8

from taskcore.backend import Delivery
from taskcore.backends.sql.messages import Receipt, TicketedSource
from taskcore.backends.sql.postgres.consumer import LONGEST_WAIT, Positions
from taskcore.backends.sql.postgres.layout import CLAIM, SLEEP
from taskcore.backends.sql.postgres.settle import PostgresSettler
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection
from taskcore.connections.postgres.sleepers import PostgresSleepers
from taskcore.lifecycle import Verdict

__all__ = ["PostgresSource"]

RECEIVE_LIMIT: Final = 500  #: jobs in one statement
SHORTEST_WAIT: Final = 0.005  #: seconds
SLEEP_MARGIN: Final = 0.5  #: seconds for which a worker counts as asleep after it has looked again
READY_FIRST_EVERY: Final = 4  #: of so many looks one leaves room for jobs without a time: others may come without end
LOST_TOKENS: Final = 50  #: tokens of lost answers that are remembered


class PostgresSource(TicketedSource):
    """One consumer of some queues. Use it with ``async with``.

    :param wake: is called with queues that got a job back.
    """

    def __init__(
        self,
        pool: PostgresPool,
        queues: Sequence[str],
        lease: float,
        sleepers: PostgresSleepers,
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self._queues = list(dict.fromkeys(queues))
        self._order = {queue: place for place, queue in enumerate(self._queues)}
        self._lease = lease
        self._pool = pool
        self._settler = PostgresSettler(pool, lease, wake)
        self.settle_together = self._settler.settle_together  #: see :class:`taskcore.joint_ends.SettlesTogether`
        self._sleepers = sleepers
        self._positions = Positions(self._queues)
        self._lost: list[int] = []  # tokens of statements whose answers were lost
        self._receiving = anyio.Lock()
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._sleepers.join()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._sleepers.leave()

    # ── receiving ──

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one delivery; wait for a publish, a due time or the end of a lease.

        :raises BrokerUnavailable: PostgreSQL cannot be reached.
        """
        async with self._receiving:
            while True:
                taken = await self._take(limit)
                if taken:
                    return taken
                await self._sleepers.listen()
                event = self._sleepers.sleep(self._queues)
                try:
                    pause = await self._note_sleep()
                    taken = await self._take(limit)
                    if taken:
                        return taken
                    pause = min(pause, max(self._positions.seconds_to_full_look(idle=True), SHORTEST_WAIT))
                    with anyio.move_on_after(pause):
                        await event.wait()
                finally:
                    self._sleepers.awake(event)

    async def _note_sleep(self) -> float:
        """Note in the database that this source sleeps; return for how many seconds it may."""
        longest = min(LONGEST_WAIT, self._lease / 3)
        values = {"queues": self._queues, "seconds": longest + SLEEP_MARGIN}

        async def note(connection: Connection) -> float | None:
            cursor = await connection.execute(SLEEP, values, prepare=True)
            row = await cursor.fetchone()
            return row[0] if row is not None else None

        due: float | None = None
        with anyio.CancelScope(shield=True):  # a cancelled statement would cost the connection
            due = await self._pool.run(note, repeatable=True)
        return max(longest if due is None else min(longest, due), SHORTEST_WAIT)

    async def _take(self, limit: int) -> Sequence[Delivery]:
        """Lease jobs: from where this source has come; if there are none, and now and then, from the beginning."""
        self._turn += 1
        limit = min(limit, RECEIVE_LIMIT)
        late = limit // 2 if self._turn % READY_FIRST_EVERY == 0 else limit
        full = bool(self._lost) or self._positions.seconds_to_full_look(idle=False) <= 0
        taken = await self._claim(limit, late, full=full)
        if not taken and (late < limit or (not full and self._positions.seconds_to_full_look(idle=True) <= 0)):
            taken = await self._claim(limit, limit, full=True)
        return taken

    async def _claim(self, limit: int, late: int, *, full: bool) -> list[Delivery]:
        await anyio.lowlevel.checkpoint_if_cancelled()  # a worker that stops would have its own jobs back
        found: list[Delivery] = []
        with anyio.CancelScope(shield=True):  # leased jobs are returned, even if the caller is cancelled
            token = secrets.randbits(62) + 1
            rows, took = await self._ask(limit, late, token, full=full)
            if full:
                self._positions.looked(took)
            found = self._deliveries(rows, token)
            if found and took * 2 > self._lease:  # the loop stood still, and some leases may have ended since
                lost = await self._settler.extend(found)
                found = [delivery for delivery in found if delivery not in lost]
        return found

    async def _ask(self, limit: int, late: int, token: int, *, full: bool) -> tuple[list[tuple[Any, ...]], float]:
        """Lease rows; return them, and how many seconds that took."""
        values: dict[str, Any] = {
            **self._positions.columns(full=full),
            "limit": limit,
            "late": late,
            "token": Int8(token),
            "lease": self._lease,
            "lost": [Int8(one) for one in self._lost],
        }
        values["lows"] = [Int8(low) for low in values["lows"]]
        began = anyio.current_time()
        asked = False

        async def claim(connection: Connection) -> list[tuple[Any, ...]]:
            nonlocal asked
            asked = True
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(CLAIM, values, prepare=True)
                return await cursor.fetchall()

        try:
            rows = await self._pool.run(claim)
        except BaseException:
            if asked:
                self._lost = [*self._lost, token][-LOST_TOKENS:]
            raise
        self._lost.clear()
        return rows, anyio.current_time() - began

    def _deliveries(self, rows: list[tuple[Any, ...]], token: int) -> list[Delivery]:
        """Make deliveries of rows, in the order of the queues, then of their times and numbers."""
        order = self._order
        rows.sort(key=lambda row: (order[row[0]], row[3] is None, row[3] or 0.0, row[2]))
        deliveries: list[Delivery] = []
        for queue, job, number, due, envelope, trail, redeliveries in rows:
            self._positions.found(queue, number, due)
            deliveries.append(Delivery(queue, envelope, trail, redeliveries, Receipt(job, token)))
        return deliveries

    # ── settling ──

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
