"""Settling and extending: verdicts and leases, one statement for a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

from psycopg import Rollback
from psycopg.types.numeric import Int8

from taskcore.backend import Delivery
from taskcore.backends.sql.messages import ACK_EFFECT, BATCH_JOBS, Effect, Receipt, effect_of, read_ticket
from taskcore.backends.sql.postgres.layout import ACK, EXTEND, SETTLE, prepare
from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection, is_refusal
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Verdict

__all__ = ["PostgresExtender", "PostgresSettler", "extend_all"]


class PostgresSettler:
    """Carries out verdicts and renews leases for one source.

    :param lease: seconds.
    :param wake: is called with the queues that got a job back.
    """

    def __init__(self, pool: PostgresPool, lease: float, wake: Callable[[Iterable[str]], None]) -> None:
        self._pool = pool
        self._lease = lease
        self._wake = wake

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost.

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe.
        :raises VerdictRefused: a job would be too large with its new trail.
        """
        lost: list[Delivery] = []
        told = [(delivery, effect_of(delivery, verdict)) for delivery, verdict in batch]
        for start in range(0, len(told), BATCH_JOBS):
            part = told[start : start + BATCH_JOBS]
            done = await self._pool.run(partial(settle_all, batch=part), urgent=True)
            lost += [delivery for delivery, _ in part if delivery.receipt.job not in done]
        self._wake({delivery.queue for delivery, effect in told if effect.returns})
        return lost

    async def settle_together(self, batch: Sequence[tuple[Delivery, Verdict]], also: Callable[..., Any]) -> Any:
        """See :class:`taskcore.joint_ends.SettlesTogether`."""
        told = [(delivery, effect_of(delivery, verdict)) for delivery, verdict in batch]

        async def work(connection: Connection) -> Any:
            async with connection.transaction() as transaction:
                done = await settle_all(connection, told)
                answer = await also(connection) if len(done) == len(told) else None
                if answer is None:
                    raise Rollback(transaction)
            return answer

        try:
            return await self._pool.run(work, urgent=True)
        except BrokerUnavailable as error:
            if error.__cause__ is not None and is_refusal(error.__cause__):
                return None
            raise
        finally:
            self._wake({delivery.queue for delivery, effect in told if effect.returns})

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the leases; return the deliveries whose lease was lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        lost: list[Delivery] = []
        for start in range(0, len(batch), BATCH_JOBS):
            part = batch[start : start + BATCH_JOBS]
            held = [delivery.receipt for delivery in part]
            work = partial(extend_all, held=held, lease=self._lease)
            done = await self._pool.run(work, repeatable=True, urgent=True)
            lost += [delivery for delivery in part if delivery.receipt.job not in done]
        return lost


async def settle_all(connection: Connection, batch: Sequence[tuple[Delivery, Effect]]) -> set[str]:
    """Carry out verdicts; return the ids of the jobs that were still leased."""
    effects = [effect for _, effect in batch]
    columns = {
        "jobs": [delivery.receipt.job for delivery, _ in batch],
        "tokens": [Int8(delivery.receipt.token) for delivery, _ in batch],
    }
    statement = ACK
    if any(effect is not ACK_EFFECT for effect in effects):
        statement = SETTLE
        columns |= {
            "kinds": [effect.kind for effect in effects],
            "afters": [effect.after for effect in effects],
            "trails": [effect.trail for effect in effects],
            "reasons": [effect.reason for effect in effects],
        }
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(statement, columns, prepare=True)
        return {job for (job,) in await cursor.fetchall()}


async def extend_all(connection: Connection, held: Sequence[Receipt], lease: float) -> set[str]:
    """Renew leases; return the ids of the jobs that were still leased."""
    columns = {"jobs": [one.job for one in held], "tokens": [Int8(one.token) for one in held], "lease": lease}
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(EXTEND, columns, prepare=True)
        return {job for (job,) in await cursor.fetchall()}


class PostgresExtender:
    """Renews leases by their tickets, over a connection of its own. Use it with ``async with``.

    :param lease: seconds.
    """

    def __init__(self, address: PostgresAddress, lease: float) -> None:
        self._lease = lease
        self._pool = PostgresPool(address, prepare)

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._pool.close()

    async def extend(self, tickets: Sequence[bytes]) -> list[bytes]:
        """Renew the leases; return the tickets of those that were lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        held = [read_ticket(ticket) for ticket in tickets]
        done = await self._pool.run(partial(extend_all, held=held, lease=self._lease), repeatable=True)
        return [ticket for ticket, one in zip(tickets, held, strict=True) if one.job not in done]
