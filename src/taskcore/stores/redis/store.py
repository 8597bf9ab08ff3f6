"""RedisStore: the five verbs, on one link.

Calls that come at the same time travel together: while one batch is under way the next one gathers, so a hundred
coroutines need a few round trips and two connections, not a hundred. A batch is never repeated and never cut short by
somebody's cancellation; it ends by itself within its time limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar

from taskcore.connections.redis import RedisLink
from taskcore.connections.redis.diagnose import diagnose
from taskcore.errors import BrokerUnavailable
from taskcore.store import Conflict, Expect, Record, Version, Write
from taskcore.stores.redis.batches import Answer, Found, read, write
from taskcore.stores.redis.records import Names, versions
from taskcore.stores.redis.watching import WatchFeed
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.timeouts import SharedTimeout

__all__ = ["RedisStore"]

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 200  #: callers whose reads, or whose writes, travel together


class RedisStore:
    """Records in Redis or Valkey: one server, what sentinels watch, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`; ``prefix`` and the time limits apply.
    :raises InvalidURL: it cannot be meant (TC103).
    """

    def __init__(self, url: str) -> None:
        self._link = RedisLink(url)
        options = self._link.options
        self._names = Names(options.prefix)
        self._versions = versions()
        self._limit = 2 * options.timeout + options.connect_timeout
        self._time = SharedTimeout(self._limit)
        self._reads = GroupCommit[str, Found](self._read, limit=AT_ONCE)
        self._writes = GroupCommit[Sequence[Write], Sequence[Answer]](self._write, limit=AT_ONCE)
        self._feed = self._new_feed()
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect."""
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._link)
            self._feed = self._new_feed()  # an earlier one belongs to its event loop
            exits.push_async_callback(self._feed.close)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect; watches that are still open end with an error."""
        await self._reads.wait_closed()
        await self._writes.wait_closed()
        await self._exits.__aexit__(kind, error, traceback)

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """The record, unless its time is over."""
        found = await self._in_time(self._reads, key)
        if isinstance(found, BrokerUnavailable):
            raise found
        return found

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """Several records; in one exchange, or in a cluster in one for each group of records."""
        records: list[Record | None] = []
        for found in await self._read(list(keys)) if keys else ():
            if isinstance(found, BrokerUnavailable):
                raise found
            records.append(found)
        return records

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write if what is there is as expected."""
        [answer] = await self.put_many([Write(key=key, value=value, expect=expect, keep=keep)])
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Forget if it is as expected."""
        [answer] = await self.put_many([Write(key=key, value=None, expect=expect)])
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """All writes, one answer each."""
        if not writes:
            return []
        answers: list[Version | Conflict] = []
        for answer in await self._in_time(self._writes, writes):
            if isinstance(answer, BrokerUnavailable):
                raise answer
            answers.append(answer)
        return answers

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """The record as it is, then each new one, announced by the server."""
        return self._feed.watches.watch(key)

    def _new_feed(self) -> WatchFeed:
        return WatchFeed(self._link, self._names, limit=self._limit)

    async def diagnose(self) -> Diagnosis:
        """What the server says about itself."""
        return await diagnose(self._link)

    # ── batches ──

    async def _in_time(self, commit: GroupCommit[T, R], item: T) -> R:
        """The answer, or the end of the time in which there has to be one."""
        with self._time.scope():
            return await commit.submit(item)
        raise self._overdue()

    async def _read(self, keys: list[str]) -> Sequence[Found]:
        with self._time.scope():
            return await read(self._link, "read records", self._names, keys)
        raise self._overdue()

    async def _write(self, bundles: list[Sequence[Write]]) -> Sequence[Sequence[Answer]]:
        writes = [write for bundle in bundles for write in bundle]
        with self._time.scope():
            answers = iter(await write(self._link, self._names, self._versions, writes))
            return [[next(answers) for _ in bundle] for bundle in bundles]
        raise self._overdue()

    def _overdue(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Redis at {self._link.options.shown} did not answer within {self._limit:g} s",
            facts=["what was asked may have been carried out"],
        )
