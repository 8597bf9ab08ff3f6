"""Sessions of PostgreSQL that end within their time, and psycopg's errors in plain words."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import psycopg
from psycopg import errors as sql

from taskcore.connections.postgres.address import OPTION_PREFIX, PostgresAddress
from taskcore.errors import BrokerUnavailable

__all__ = ["Connection", "PostgresSession", "connect", "is_refusal", "postgres_unavailable"]

T = TypeVar("T")
Connection: TypeAlias = "psycopg.AsyncConnection[Any]"

SERVER_SHARE: Final = 0.8  #: share of a call's time after which the server gives up, so its answer comes first
#: With the statistics of an empty queue the planner would read a table from the beginning to the end, and would go on
#: doing so when the table is full: all statements of ours go through an index.
SET_LIMITS: Final = """SELECT set_config(name, value, %(local)s) FROM (VALUES
    ('statement_timeout', %(limit)s), ('lock_timeout', %(limit)s), ('default_transaction_isolation', 'read committed'),
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
    ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan')) AS settings (name, value)
    WHERE %(only)s::int IS NULL OR pg_backend_pid() = %(only)s::int"""
#: Classes of SQLSTATE: data exception, constraint, check option of a view, program limit, error raised by a trigger.
REFUSALS: Final = frozenset({"22", "23", "44", "54", "P0"})
TEST_AFTER_IDLE: Final = 1.0  #: seconds without use, after which a connection is tested before it is used: …
TEST_TIMEOUT: Final = 3.0  #: … it is closed without an answer in this time, for a firewall may have forgotten it
RETRIES: Final = 3  #: times that work is repeated at once after a deadlock or the like, which undid it


class PostgresSession:
    """One connection, for one piece of work at a time: made when it is needed, thrown away after an error.

    :param begin: is called with each new connection, before any work.
    """

    def __init__(self, address: PostgresAddress, begin: Callable[[Connection], Awaitable[None]] | None = None) -> None:
        self._address = address
        self._begin = begin
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._used = 0.0

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Do the work with a connection; return its result.

        :param repeatable: doing the work twice does no harm, so it is repeated once if the connection was dead.
        :raises BrokerUnavailable: it was not done, or its answer was lost and it may have been done.
        """
        try:
            with anyio.fail_after(
                self._address.timeout
            ):  # unlike asyncio's it cancels repeatedly: psycopg cannot wait longer
                async with self._lock:
                    await self._test_if_idle()
                    try:
                        return await self._run(work, repeatable=repeatable)
                    finally:
                        self._used = time.monotonic()
        except BrokerUnavailable:  # an OSError too
            raise
        except (psycopg.Error, OSError) as error:  # TimeoutError is one
            raise postgres_unavailable(error, self._address) from error

    def drop(self) -> None:
        """Disconnect; the next call makes a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    async def _test_if_idle(self) -> None:
        """Drop a connection that has died unnoticed, before anything is in doubt."""
        connection = self._connection
        if connection is None:
            return
        alive = not _is_stale(connection)
        if alive and time.monotonic() - self._used > TEST_AFTER_IDLE:
            alive = False
            with anyio.move_on_after(min(TEST_TIMEOUT, self._address.timeout / 2)), suppress(psycopg.Error, OSError):
                await connection.execute("SELECT 1")
                alive = True
        if not alive:
            self.drop()

    async def _run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool) -> T:
        old = self._connection is not None
        for left in range(RETRIES, -1, -1):
            try:
                return await self._work(work, await self._connected())
            except (sql.DeadlockDetected, sql.SerializationFailure):
                if not left:
                    self.drop()
                    raise
            except sql.OperationalError as error:
                if is_refusal(error):
                    raise
                dead = self._connection is None or self._connection.closed
                self.drop()
                if not (old and dead and repeatable):
                    raise
                old = False
            except BaseException as error:
                if not is_refusal(error):
                    self.drop()
                raise
        raise AssertionError("the last round returns or raises")  # pragma: no cover

    async def _work(self, work: Callable[[Connection], Awaitable[T]], connection: Connection) -> T:
        """Do the work; behind a pooler that shares sessions, in a transaction that has our settings to itself."""
        if self._address.listens:
            return await work(connection)
        async with connection.transaction():
            await _limit(connection, self._address)
            return await work(connection)

    async def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._connection = await connect(self._address)
            if self._begin is not None:
                await self._work(self._begin, connection)
        return self._connection


async def connect(address: PostgresAddress) -> Connection:
    """Make a connection that commits each statement by itself, with a server session of its own.

    :raises psycopg.Error: it cannot be made.
    :raises BrokerUnavailable: a pooler shares server sessions among its clients.
    """
    connection = await _connect(address)
    if not address.listens:
        connection.prepare_threshold = None
        return connection
    try:
        if not await _limit(connection, address, only=connection.pgconn.backend_pid):
            await _require_own_session(connection, address)
            await _limit(connection, address)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


async def _connect(address: PostgresAddress) -> Connection:
    return await psycopg.AsyncConnection.connect(
        address.url, autocommit=True, client_encoding="UTF8", fallback_application_name="taskcore"
    )


async def _limit(connection: Connection, address: PostgresAddress, *, only: int | None = None) -> bool:
    """Make the server give up in time; return whether the settings were applied.

    :param only: apply them in this server session only: behind a pooler, another one may answer.
    """
    limit = f"{max(int(address.timeout * SERVER_SHARE * 1000), 1)}ms"
    cursor = await connection.execute(SET_LIMITS, {"limit": limit, "only": only, "local": not address.listens})
    return await cursor.fetchone() is not None


async def _require_own_session(connection: Connection, address: PostgresAddress) -> None:
    """Check, behind a pooler, whether two connections share one server session.

    The order matters: an idle pooler hands out sessions either latest first or in turn.
    """
    other = await _connect(address)
    try:
        seen: dict[Connection, set[int]] = {connection: set(), other: set()}
        for asked in (connection, other, other, connection, connection, other):
            row = await (await asked.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
            seen[asked].add(row[0] if row is not None else 0)
    finally:
        other.pgconn.finish()
    if len(seen[connection]) > 1 or seen[connection] & seen[other]:
        raise BrokerUnavailable(
            f"a pooler at {address.shown} lets its clients share server sessions (PgBouncer: pool_mode = transaction)",
            facts=["without a session of its own it gets no notifications, and its time limits would hit others"],
            fix="name PostgreSQL itself in the URL, or a pool in session mode, or add ?listen=no, which polls every "
            "250 ms; other connections of your program may go through the pooler all the same",
        )


def _is_stale(connection: Connection) -> bool:
    """Tell whether the server has disconnected since the last call. An idle connection has nothing else to read."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def is_refusal(error: BaseException) -> bool:
    """Tell whether the server refuses values: they stay refused, and the connection is as good as before.

    A missing table or right (class 42) is the state of the database, though: each piece of work meets it.
    """
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in REFUSALS


def postgres_unavailable(error: BaseException, address: PostgresAddress) -> BrokerUnavailable:
    """Translate an error of the library, without secrets."""
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(
            f"PostgreSQL at {address.shown} did not answer within {address.timeout:g} s",
            facts=["the call may have been carried out"],
            fix=f"see whether it runs and can be reached, or allow more with ?{OPTION_PREFIX}timeout=",
        )
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return BrokerUnavailable(
        f"PostgreSQL at {address.shown} cannot be used now: {text}",
        facts=[f"{type(error).__name__}{f', SQLSTATE {state}' if state else ''}"],
        fix=FIXES.get(state or "", "see whether it runs and can be reached, and its log; the next call connects again"),
    )


FIXES: Final = {
    "28P01": "check the password",
    "28000": "check the user, and pg_hba.conf on the server",
    "3D000": "create the database, or name another one in the URL",
    "25006": "this server only answers reads; name the primary, or use ?target_session_attrs=read-write",
    "53100": "make room on the server's disk, and start the server again if that has ended it",
    "53300": "the server has no connection left; raise max_connections, or use fewer processes",
    "55P03": "a transaction holds a record for too long: find it in pg_stat_activity, and keep it short",
    "57014": "a transaction holds a record for too long: find it in pg_stat_activity, and keep it short",
}
