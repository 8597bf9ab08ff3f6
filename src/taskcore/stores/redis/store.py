"""RedisStore: the six verbs, on one link.

Calls that arrive while a batch is under way form the next one, so a hundred coroutines need a few round trips and two
connections, not a hundred. A batch is never repeated, and a cancelled caller does not end it; it ends by itself within
its time limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self, TypeVar

from taskcore.connections.redis import RedisLink
from taskcore.connections.redis.diagnose import diagnose
from taskcore.errors import BrokerUnavailable
from taskcore.store import Conflict, Expect, Record, Version, Write
from taskcore.stores.redis.batches import Answer, Found, read, write
from taskcore.stores.redis.layout import RecordNames, versions
from taskcore.stores.redis.watches import WatchFeed
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.timeouts import SharedTimeout

__all__ = ["RedisStore"]

T = TypeVar("T")
R = TypeVar("R")

BATCH_CALLERS = 200  #: callers whose reads, or whose writes, share a batch


class RedisStore:
    """Records in Redis or Valkey: one server, what sentinels watch, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`; ``prefix`` and the time limits apply.
    :raises InvalidURL: the URL has an unknown or impossible part (TC103).
    """

    def __init__(self, url: str) -> None:
        self._link = RedisLink(url)
        options = self._link.options
        self._names = RecordNames(options.prefix)
        self._versions = versions()
        self._limit = 2 * options.timeout + options.connect_timeout
        self._time = SharedTimeout(self._limit)
        self._reads = GroupCommit[Sequence[str], Sequence[Found]](self._read, limit=BATCH_CALLERS)
        self._writes = GroupCommit[Sequence[Write], Sequence[Answer]](self._write, limit=BATCH_CALLERS)
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

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect; watches that are still open end with an error."""
        await self._reads.wait_closed()
        await self._writes.wait_closed()
        await self._exits.aclose()

    # ── the verbs ──

    async def get(self, key: str) -> Record | None:
        """Return the record, unless it has ended."""
        [record] = await self.get_many((key,))
        return record

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """Fetch some records, in order, in one exchange; in a cluster, in one for each group of records."""
        if not keys:
            return []
        records: list[Record | None] = []
        for found in await self._in_time(self._reads, keys):
            if isinstance(found, BrokerUnavailable):
                raise found
            records.append(found)
        return records

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write if the record is as expected."""
        [answer] = await self.put_many([Write(key=key, value=value, expect=expect, keep=keep)])
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Delete the record if it is as expected."""
        [answer] = await self.put_many([Write(key=key, value=None, expect=expect)])
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """Carry out all writes, one answer each."""
        if not writes:
            return []
        answers: list[Version | Conflict] = []
        for answer in await self._in_time(self._writes, writes):
            if isinstance(answer, BrokerUnavailable):
                raise answer
            answers.append(answer)
        return answers

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Return a watch: the record as it is, then each new one, announced by the server."""
        return self._feed.watches.watch(key)

    def _new_feed(self) -> WatchFeed:
        return WatchFeed(self._link, self._names, limit=self._limit)

    async def diagnose(self) -> Diagnosis:
        """Ask how the server is set up."""
        return await diagnose(self._link)

    # ── batches ──

    async def _in_time(self, commit: GroupCommit[T, R], item: T) -> R:
        """Return the answer; raise when the time limit is over."""
        with self._time.scope():
            return await commit.submit(item)
        raise self._overdue()

    async def _read(self, bundles: list[Sequence[str]]) -> Sequence[Sequence[Found]]:
        keys = [key for bundle in bundles for key in bundle]
        with self._time.scope():
            found = iter(await read(self._link, "read records", self._names, keys))
            return [[next(found) for _ in bundle] for bundle in bundles]
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
            facts=["the call may have been carried out"],
        )
