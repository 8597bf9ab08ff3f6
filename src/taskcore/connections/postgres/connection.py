"""PostgreSQL: from a URL to connections that end within their time, and psycopg's errors in our words.

    postgresql://user:secret@host:5432/database?sslmode=verify-full      everything that libpq knows (also postgres://)
    ?taskcore_timeout=10                                                 ours: seconds that a call may take

A Line is one connection that somebody uses for one thing at a time. It is made when it is needed, thrown away after the
first error, and made anew by the next call.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import msgspec
import psycopg
from psycopg import errors as sql
from psycopg.conninfo import conninfo_to_dict

from taskcore.errors import BrokerUnavailable, InvalidURL
from taskcore.toolkit.units import duration
from taskcore.toolkit.urls import mask_url

__all__ = ["Connection", "Line", "PostgresAddress", "postgres_address", "postgres_unavailable"]

T = TypeVar("T")
Connection: TypeAlias = "psycopg.AsyncConnection[Any]"

TIMEOUT: Final = 10.0  #: seconds that a call may take
SERVER_SHARE: Final = 0.8  #: of that time, after which the server gives up by itself, so that its answer comes first
PREFIX: Final = "taskcore_"
LIMIT: Final = """SELECT set_config('statement_timeout', %(limit)s, false),
    set_config('lock_timeout', %(limit)s, false),
    set_config('default_transaction_isolation', 'read committed', false)
    WHERE %(only)s::int IS NULL OR pg_backend_pid() = %(only)s::int"""
AGAIN: Final = 3  #: how often what the server undid, because of a deadlock or the like, is done again at once


class PostgresAddress(msgspec.Struct, frozen=True):
    """Where the server is.

    :param url: for libpq, with the secrets.
    :param shown: for people, without.
    """

    url: str
    shown: str
    timeout: float


def postgres_address(url: str) -> PostgresAddress:
    """What a URL says.

    :raises InvalidURL: an option that neither libpq nor taskcore knows, or an impossible value (TC103).
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidURL(
            f"this PostgreSQL URL cannot be read: {error}",
            fix="for example postgresql://user:secret@localhost:5432/database",
        ) from None
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in options if name.startswith(PREFIX)}
    unknown = sorted(ours.keys() - {f"{PREFIX}timeout"})
    if unknown:
        raise InvalidURL(
            f"{mask_url(url)} has an unknown option {', '.join(unknown)}", fix=f"of ours there is {PREFIX}timeout"
        )
    query = urlencode([(name, value) for name, value in options if name not in ours])
    plain = urlunsplit(parts._replace(query=query))
    try:
        conninfo_to_dict(plain)
    except psycopg.Error as error:
        known = sorted(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
        raise InvalidURL(
            f"{mask_url(url)} is not a URL that PostgreSQL's client understands: {str(error).strip()}",
            facts=[f"it knows {', '.join(known)}", f"taskcore knows {PREFIX}timeout"],
            fix="for example postgresql://user:secret@localhost:5432/database",
        ) from None  # the original has the password
    return PostgresAddress(plain, mask_url(url), _timeout(url, ours.get(f"{PREFIX}timeout")))


def _timeout(url: str, text: str | None) -> float:
    try:
        seconds = TIMEOUT if text is None else duration(text)
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise InvalidURL(
            f"{mask_url(url)}: {PREFIX}timeout={text} is not a time", fix=f"for example {PREFIX}timeout=10s"
        )
    return seconds


class Line:
    """One connection, for one thing at a time.

    :param begin: called with each new connection, before anything else is done with it.
    """

    def __init__(self, address: PostgresAddress, begin: Callable[[Connection], Awaitable[None]] | None = None) -> None:
        self._address = address
        self._begin = begin
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False) -> T:
        """What ``work`` makes of a connection.

        :param repeatable: doing it twice harms nobody, so it is tried once more when a connection turns out to be dead.
        :raises BrokerUnavailable: it was not done, or its answer was lost: then nobody knows.
        """
        try:
            with anyio.fail_after(self._address.timeout):  # unlike asyncio's it insists, so psycopg cannot wait longer
                async with self._turn:
                    return await self._run(work, repeatable=repeatable)
        except BrokerUnavailable:  # an OSError too
            raise
        except (psycopg.Error, OSError) as error:  # TimeoutError is one
            raise postgres_unavailable(error, self._address) from error

    def drop(self) -> None:
        """Hang up; the next call makes a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    async def _run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool) -> T:
        if self._connection is not None and _is_stale(self._connection):
            self.drop()
        old = self._connection is not None
        for left in range(AGAIN, -1, -1):
            try:
                return await work(await self._connected())
            except (sql.DeadlockDetected, sql.SerializationFailure):
                if not left:
                    self.drop()
                    raise
            except sql.OperationalError:
                dead = self._connection is None or self._connection.closed
                self.drop()
                if not (old and dead and repeatable):
                    raise
                old = False
            except BaseException:
                self.drop()
                raise
        raise AssertionError("the last round returns or raises")  # pragma: no cover

    async def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._connection = await connect(self._address)
            if self._begin is not None:
                await self._begin(connection)
        return self._connection


async def connect(address: PostgresAddress) -> Connection:
    """A new connection that commits each statement by itself, with a session that nobody else is served by.

    :raises psycopg.Error: it cannot be had.
    :raises BrokerUnavailable: a pooler shares its sessions among all who are connected to it.
    """
    connection = await _connect(address)
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
    """Let the server give up in time; whether it was done.

    :param only: the session for which it is meant: behind a pooler, it may be one that serves others, too.
    """
    limit = f"{max(int(address.timeout * SERVER_SHARE * 1000), 1)}ms"
    cursor = await connection.execute(LIMIT, {"limit": limit, "only": only})
    return await cursor.fetchone() is not None


async def _require_own_session(connection: Connection, address: PostgresAddress) -> None:
    """Somebody stands in between. See whether two who are connected to him are served by the same session.

    The order matters: an idle pooler gives its sessions out either the latest first or in turn.
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
            f"a pooler at {address.shown} lets its clients share sessions (PgBouncer: pool_mode = transaction)",
            facts=["without a session of its own a store is not told of news, and its time limits would hit others"],
            fix="name PostgreSQL itself in the URL of the store, or a pool in session mode; other connections of your "
            "program may go through the pooler all the same",
        )


def _is_stale(connection: Connection) -> bool:
    """Whether the server hung up while nobody looked. On a quiet connection there is nothing else to read."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def postgres_unavailable(error: BaseException, address: PostgresAddress) -> BrokerUnavailable:
    """An error of the library in our words, without secrets."""
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(
            f"PostgreSQL at {address.shown} did not answer within {address.timeout:g} s",
            facts=["whether it was done is not known"],
            fix=f"see whether it runs and can be reached, or allow more with ?{PREFIX}timeout=",
        )
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return BrokerUnavailable(
        f"PostgreSQL at {address.shown} cannot be used now: {text}",
        facts=[f"{type(error).__name__}{f', SQLSTATE {state}' if state else ''}"],
        fix=FIXES.get(state or "", "see whether it runs and can be reached, and its log; the next call connects anew"),
    )


FIXES: Final = {
    "28P01": "check the password",
    "28000": "check the user, and pg_hba.conf on the server",
    "3D000": "create the database, or name another one in the URL",
    "25006": "this server only answers reads; name the primary, or use ?target_session_attrs=read-write",
    "53100": "make room on the server's disk, and start the server again if that has ended it",
    "53300": "the server has no connection left; raise max_connections, or use fewer processes",
    "55P03": "some transaction holds a record for long; find it in pg_stat_activity and keep it short",
    "57014": "some transaction holds a record for long; find it in pg_stat_activity and keep it short",
}
