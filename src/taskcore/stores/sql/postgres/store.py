"""PostgresStore: records in PostgreSQL, on asyncio.

One connection listens while a record is watched; the others are those of the program's pool. Calls that arrive while a
statement is under way join the next one (group commit), so a batch of any number of callers is one round trip and one
commit.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Self, TypeAlias

import psycopg

from taskcore.connections.loops import require_asyncio
from taskcore.connections.postgres.address import PostgresAddress, postgres_address
from taskcore.connections.postgres.diagnose import diagnose
from taskcore.connections.postgres.listener import PostgresListener
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection, PostgresSession, is_refusal
from taskcore.errors import BrokerUnavailable, StoreRefused
from taskcore.store import ABSENT, Conflict, Expect, Record, Version, Write
from taskcore.stores.limits import check_names, check_writes, refusal
from taskcore.stores.sql.postgres.layout import CHANNEL, CLEAN, hashes_in, key_hash, name, prepare, read, write_distinct
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["PostgresStore"]

log = logger("taskcore.stores.sql")

BATCH_CALLERS = 1_000  #: whose calls may share a batch
STATEMENT_ROWS = 900  #: in one statement; so many marks fit into one notification
WRITE_TRIES = 3  #: for a write that expects no record, and lost against one that is gone already
CLEAN_EVERY = 30.0  #: seconds between two deletions of ended records, by each open store
CLEAN_BATCH = 500  #: records deleted in one statement

LARGEST_VALUE = 256 * 1024 * 1024  #: bytes; a server copies a value a few times in buffers of at most a gigabyte
STATEMENT_BYTES = LARGEST_VALUE  #: bytes of values in one statement

Answer: TypeAlias = Version | Conflict | StoreRefused
Answers: TypeAlias = Sequence[Version | Conflict]


class PostgresStore:
    """Records in PostgreSQL.

    :param url: as libpq understands it, and ``?taskcore_timeout=``.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    """

    max_value: Final = LARGEST_VALUE  #: see :class:`taskcore.store.LimitsValues`

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._address = postgres_address(url)
        self.database = self._address  #: see :class:`taskcore.joint_ends.InDatabase`
        self._clear()

    def _clear(self) -> None:
        """Start without connections and callers: at the beginning, and for each event loop."""
        self._pool = PostgresPool(self._address, prepare)
        self._writes: GroupCommit[Sequence[Write], Answers | StoreRefused] = GroupCommit(
            self._commit, limit=BATCH_CALLERS
        )
        self._reads: GroupCommit[Sequence[str], dict[str, Record]] = GroupCommit(self._find, limit=BATCH_CALLERS)
        self._feed = _WatchFeed(self._address, self._reads.submit)
        self._tasks = TaskSet("PostgreSQL store")

    async def __aenter__(self) -> Self:
        """Connect, and create the tables unless they exist.

        :raises BrokerUnavailable: the server cannot be reached, or this role may not create the tables.
        :raises FeatureRefused: on trio (TC501).
        """
        require_asyncio("postgresql", "psycopg")
        self._clear()
        await self._pool.open()
        self._tasks.start(self._clean())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await self._tasks.cancel()
        await self._feed.close()
        await self._reads.wait_closed()
        await self._writes.wait_closed()
        self._pool.close()

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        [record] = await self.get_many((key,))
        return record

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`. One statement."""
        if not keys:
            return []
        names = tuple(name(key) for key in keys)
        check_names(names)
        found = await self._reads.submit(names)
        return [found.get(one) for one in names]

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self.put_many((Write(key=key, value=value, expect=expect, keep=keep),))
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self.put_many((Write(key=key, value=None, expect=expect),))
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`.

        After ``StoreRefused`` by the server the other writes were carried out; nothing was, if a name or a value was
        known to be too large before.
        """
        if not writes:
            return []
        check_names(name(write.key) for write in writes)
        check_writes(writes, self.max_value)
        answers = await self._writes.submit(writes)
        if isinstance(answers, StoreRefused):
            raise answers
        return answers

    def joining(self, writes: Sequence[Write]) -> Callable[[Connection], Awaitable[Sequence[Version] | None]]:
        """See :class:`taskcore.joint_ends.JoinsTransactions`."""
        check_names(name(write.key) for write in writes)
        check_writes(writes, self.max_value)

        async def write(connection: Connection) -> Sequence[Version] | None:
            answers = [answer for part in _parts([*writes]) for answer in await write_distinct(connection, part)]
            versions = [answer for answer in answers if not isinstance(answer, Conflict)]
            return versions if len(versions) == len(answers) else None

        return write

    def joined(self, writes: Sequence[Write], versions: Sequence[Version]) -> None:
        """Do nothing: the server notifies watches."""

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Pushed by the server."""
        return self._feed.watches.watch(name(key))

    async def diagnose(self) -> Diagnosis:
        """See :class:`taskcore.toolkit.diagnostics.HasDiagnostics`."""
        session = PostgresSession(self._address)
        try:
            return await session.run(diagnose, repeatable=True)
        finally:
            session.drop()

    # ── one batch ──

    async def _commit(self, batches: list[Sequence[Write]]) -> Sequence[Answers | StoreRefused]:
        writes = [write for batch in batches for write in batch]
        answers = iter(await self._pool.run(lambda connection: _write(connection, writes)))
        return [_whole([next(answers) for _ in batch]) for batch in batches]

    async def _find(self, batches: list[Sequence[str]]) -> Sequence[dict[str, Record]]:
        keys = {key for batch in batches for key in batch}
        found = await self._pool.run(lambda connection: read(connection, keys), repeatable=True)
        return [found] * len(batches)

    # ── deleting ended records ──

    async def _clean(self) -> None:
        """Delete ended records, a bounded step at a time, whether or not the store is used."""
        while True:
            await asyncio.sleep(CLEAN_EVERY * random.uniform(0.5, 1.5))  # so that many stores do not do it at once
            try:
                while await self._pool.run(_delete_ended) == CLEAN_BATCH:
                    pass
            except BrokerUnavailable as error:
                log.info("cannot delete ended records now; trying again later: %s", error.what)


def _whole(answers: Sequence[Answer]) -> Answers | StoreRefused:
    """Return the answers of one caller, or the error to raise there."""
    refused = next((answer for answer in answers if isinstance(answer, StoreRefused)), None)
    return refused or [answer for answer in answers if not isinstance(answer, StoreRefused)]


class _WatchFeed:
    """Gives the watches of one store each new version of their records.

    A notification holds short hashes of keys and no values: the records that it may be about are read again. Every
    record is also read whenever listening has begun, so nothing is missed.

    :param find: reads records.
    """

    def __init__(self, address: PostgresAddress, find: Callable[[Sequence[str]], Awaitable[dict[str, Record]]]) -> None:
        self.watches = Watches(begin=self._begin, end=self._end)
        self._find = find
        self._keys: defaultdict[str, set[str]] = defaultdict(set)  # by their hashes
        self._listener = PostgresListener(
            address,
            CHANNEL,
            is_needed=lambda: bool(self.watches),
            begun=lambda: self._read(tuple(self.watches.keys)),
            received=self._received,
            failed=self.watches.fail,
        )

    async def close(self) -> None:
        """Stop listening."""
        await self._listener.close()

    async def _begin(self, watch: Watch) -> None:
        """Listen first, then read: a write in between is notified.

        :raises BrokerUnavailable: the server cannot be listened to now.
        """
        self._keys[key_hash(watch.key)].add(watch.key)
        await self._listener.begin()
        await self._read([watch.key])

    def _end(self, key: str) -> None:
        keys = self._keys[key_hash(key)]
        keys.discard(key)
        if not keys:
            del self._keys[key_hash(key)]

    async def _received(self, payload: str) -> None:
        await self._read([key for one in hashes_in(payload) for key in tuple(self._keys.get(one, ()))])

    async def _read(self, keys: Iterable[str]) -> None:
        wanted = [key for key in keys if key in self.watches]
        found = await self._find(wanted) if wanted else {}
        for key in wanted:
            record = found.get(key)
            if record is not None:
                self.watches.push(key, record)


async def _write(connection: Connection, writes: list[Write]) -> list[Answer]:
    """Carry out the writes in as few statements as possible: one, unless a key comes twice or there are very many."""
    answers: list[Answer] = []
    for part in _parts(writes):
        answered = await _write_part(connection, part)
        for _ in range(1, WRITE_TRIES):
            lost = [index for index, answer in enumerate(answered) if _is_gone(part[index], answer)]
            if not lost:
                break
            again = await _write_part(connection, [part[index] for index in lost])
            for index, answer in zip(lost, again, strict=True):
                answered[index] = answer
        answers += answered
    return answers


async def _write_part(connection: Connection, writes: list[Write]) -> list[Answer]:
    """Carry out writes in one statement; each in its own if the server refuses one of them, which undoes the others."""
    try:
        return [*await write_distinct(connection, writes)]
    except psycopg.Error as error:
        if not is_refusal(error):
            raise
        if len(writes) == 1:
            text = " ".join(str(error).split()) or type(error).__name__
            return [refusal(writes[0].key, f"{text} (SQLSTATE {error.sqlstate})")]
    return [answer for write in writes for answer in await _write_part(connection, [write])]


def _parts(writes: list[Write]) -> list[list[Write]]:
    parts: list[list[Write]] = []
    keys: set[str] = set()
    size = 0
    for write in writes:
        size += len(write.value or b"")
        if not parts or write.key in keys or len(parts[-1]) >= STATEMENT_ROWS or size > STATEMENT_BYTES:
            parts.append([])
            keys, size = set(), len(write.value or b"")
        parts[-1].append(write)
        keys.add(write.key)
    return parts


def _is_gone(write: Write, answer: Answer) -> bool:
    """Tell whether the write lost against a record that was gone when it was read."""
    return (
        write.value is not None and write.expect is ABSENT and isinstance(answer, Conflict) and answer.current is None
    )


async def _delete_ended(connection: Connection) -> int:
    return (await connection.execute(CLEAN, (CLEAN_BATCH,))).rowcount
