"""PostgresStore: records in PostgreSQL, on asyncio.

One connection writes, one reads, and one listens while somebody watches. Whatever is asked while a statement is under
way joins the next (group commit), so a batch of any number of callers is one round trip and one commit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Self, TypeAlias

from taskcore.connections.loops import require_asyncio
from taskcore.connections.postgres.connection import Connection, Line, postgres_address
from taskcore.errors import BrokerUnavailable
from taskcore.store import ABSENT, Conflict, Expect, Record, Version, Write
from taskcore.stores.sql.postgres_diagnose import diagnose
from taskcore.stores.sql.postgres_notifications import News
from taskcore.stores.sql.postgres_statements import CLEAN, name, prepare, read, write_distinct
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.logging import logger

__all__ = ["PostgresStore"]

log = logger("taskcore.stores.sql")

CALLERS = 1_000  #: whose work may be done in one go
ROWS = 900  #: in one statement; so many marks fit into one notification
TRIES = 3  #: for a write that expects nothing there, and lost against a record that is gone already
CLEAN_EVERY = 30.0  #: seconds between two rounds of forgetting, by each store that is open
CLEAN_AT_ONCE = 500  #: records forgotten in one statement

Answers: TypeAlias = Sequence[Version | Conflict]


class PostgresStore:
    """Records in PostgreSQL.

    :param url: as libpq understands it, and ``?taskcore_timeout=``.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    """

    def __init__(self, url: str) -> None:
        self._address = postgres_address(url)
        self._clear()

    def _clear(self) -> None:
        """No connection, no caller: at the beginning, and for each loop anew."""
        self._writing = Line(self._address, prepare)
        self._reading = Line(self._address)
        self._writes: GroupCommit[Sequence[Write], Answers] = GroupCommit(self._commit, limit=CALLERS)
        self._reads: GroupCommit[Sequence[str], dict[str, Record]] = GroupCommit(self._find, limit=CALLERS)
        self._news = News(self._address, self._reads.submit)
        self._cleaner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect, and make the tables if they are not there.

        :raises BrokerUnavailable: the server cannot be reached, or this role may not make the tables.
        :raises FeatureRefused: on trio (TC501).
        """
        require_asyncio("postgresql", "psycopg")
        self._clear()
        try:
            await self._writes.submit(())
        except BaseException:
            self._writing.drop()
            raise
        self._cleaner = asyncio.create_task(self._clean())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            with suppress(asyncio.CancelledError):
                await self._cleaner
        await self._news.close()
        await self._reads.wait_closed()
        await self._writes.wait_closed()
        self._writing.drop()
        self._reading.drop()

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        return (await self._reads.submit((name(key),))).get(name(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`. One statement."""
        if not keys:
            return []
        names = tuple(name(key) for key in keys)
        found = await self._reads.submit(names)
        return [found.get(each) for each in names]

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self._writes.submit((Write(key=key, value=value, expect=expect, keep=keep),))
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        [answer] = await self._writes.submit((Write(key=key, value=None, expect=expect),))
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`."""
        return await self._writes.submit(writes) if writes else []

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Pushed by the server."""
        return self._news.watch(name(key))

    async def diagnose(self) -> Diagnosis:
        """See :class:`taskcore.toolkit.diagnostics.Diagnosable`."""
        line = Line(self._address)
        try:
            return await line.run(diagnose, repeatable=True)
        finally:
            line.drop()

    # ── one batch ──

    async def _commit(self, batches: list[Sequence[Write]]) -> Sequence[Answers]:
        writes = [write for batch in batches for write in batch]
        answers = iter(await self._writing.run(lambda connection: _write(connection, writes)))
        return [[next(answers) for _ in batch] for batch in batches]

    async def _find(self, batches: list[Sequence[str]]) -> Sequence[dict[str, Record]]:
        keys = {key for batch in batches for key in batch}
        found = await self._reading.run(lambda connection: read(connection, keys), repeatable=True)
        return [found] * len(batches)

    # ── forgetting ──

    async def _clean(self) -> None:
        """Forget what has ended, a bounded step at a time, whether anybody writes or not."""
        line = Line(self._address)
        try:
            while True:
                await asyncio.sleep(CLEAN_EVERY * random.uniform(0.5, 1.5))  # many stores need not do it together
                try:
                    while await line.run(_forget) == CLEAN_AT_ONCE:
                        pass
                except BrokerUnavailable as error:
                    log.info("records that have ended are not forgotten now: %s", error.what)
                line.drop()
        finally:
            line.drop()


async def _write(connection: Connection, writes: list[Write]) -> list[Version | Conflict]:
    """In as few statements as possible: one, unless a key comes twice or there are very many."""
    answers: list[Version | Conflict] = []
    for part in _parts(writes):
        answered = await write_distinct(connection, part)
        for _ in range(1, TRIES):
            lost = [index for index, answer in enumerate(answered) if _is_gone(part[index], answer)]
            if not lost:
                break
            again = await write_distinct(connection, [part[index] for index in lost])
            for index, answer in zip(lost, again, strict=True):
                answered[index] = answer
        answers += answered
    return answers


def _parts(writes: list[Write]) -> list[list[Write]]:
    parts: list[list[Write]] = []
    keys: set[str] = set()
    for write in writes:
        if not parts or write.key in keys or len(parts[-1]) >= ROWS:
            parts.append([])
            keys = set()
        parts[-1].append(write)
        keys.add(write.key)
    return parts


def _is_gone(write: Write, answer: Version | Conflict) -> bool:
    """It lost against a record that had gone when we looked what it was."""
    return (
        write.value is not None and write.expect is ABSENT and isinstance(answer, Conflict) and answer.current is None
    )


async def _forget(connection: Connection) -> int:
    return (await connection.execute(CLEAN, (CLEAN_AT_ONCE,))).rowcount
