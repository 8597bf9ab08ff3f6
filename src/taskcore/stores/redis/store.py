"""RedisStore: the six verbs, on one link.

Calls that arrive while a batch is under way form the next one, so a hundred coroutines need a few round trips and two
connections, not a hundred. A batch is never repeated, and a cancelled caller does not end it; it ends by itself within
its time limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self, TypeVar

from taskcore.connections.redis import CommandRefused, RedisLink, ReplyLost
from taskcore.connections.redis.diagnose import diagnose
from taskcore.errors import BrokerUnavailable
from taskcore.store import Conflict, Expect, Record, Version, Write
from taskcore.stores.limits import Failure, check_names, check_writes, first_failure
from taskcore.stores.redis.batches import PutAnswer, ReadAnswer, read, write
from taskcore.stores.redis.layout import RecordNames, versions
from taskcore.stores.redis.watches import WatchFeed
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.timeouts import SharedTimeout

__all__ = ["RedisStore"]

T = TypeVar("T")
R = TypeVar("R")

SIZE_LIMITS = ("proto-max-bulk-len", "client-query-buffer-limit")  #: settings of the server, in bytes
LARGEST_VALUE = 512 * 1024 * 1024  #: bytes that a server takes unless it is set otherwise
SMALL_VALUE = 64 * 1024  #: bytes of a value for which no server ends a connection
BESIDE_THE_VALUE = 1_024  #: bytes of a record that are left for its version, and of a buffer for the command
BATCH_CALLERS = 200  #: callers whose reads, or whose writes, share a batch


class RedisStore:
    """Records in Redis or Valkey: one server, what sentinels watch, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`; ``prefix`` and the time limits apply.
    :raises InvalidURL: the URL has an unknown or impossible part (TC103).
    """

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._link = RedisLink(url)
        options = self._link.options
        self._names = RecordNames(options.prefix)
        self._versions = versions()
        self._limit = 2 * options.timeout + options.connect_timeout
        self._time = SharedTimeout(self._limit)
        self._reads = GroupCommit[Sequence[str], Sequence[ReadAnswer]](self._read, limit=BATCH_CALLERS)
        self._writes = GroupCommit[Sequence[Write], Sequence[PutAnswer]](self._write, limit=BATCH_CALLERS)
        self._feed = self._new_feed()
        self._exits = AsyncExitStack()
        self._cut_off = False  # a large write had no answer
        self.max_value: int | None = None  #: see :class:`taskcore.store.LimitsValues`

    async def __aenter__(self) -> Self:
        """Connect."""
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._link)
            self.max_value = await self._largest_value()
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
        check_names(keys)
        return _whole(await self._in_time(self._reads, keys))

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write if the record is as expected."""
        [answer] = await self.put_many([Write(key=key, value=value, expect=expect, keep=keep)])
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Delete the record if it is as expected."""
        [answer] = await self.put_many([Write(key=key, value=None, expect=expect)])
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """Carry out all writes, one answer each.

        After ``StoreRefused`` or ``UnreadableRecord`` the other writes of the batch were carried out; none was, if a
        name or a value was known to be too large before.
        """
        if not writes:
            return []
        if self._cut_off:  # a server ends a connection that sends too much; perhaps its limit is another one by now
            self.max_value = await self._largest_value()
            self._cut_off = False
        check_writes(writes, self.max_value)
        try:
            return _whole(await self._in_time(self._writes, writes))
        except ReplyLost:
            self._cut_off = any(write.value and len(write.value) > SMALL_VALUE for write in writes)
            raise

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

    async def _read(self, bundles: list[Sequence[str]]) -> Sequence[Sequence[ReadAnswer]]:
        keys = [key for bundle in bundles for key in bundle]
        with self._time.scope():
            found = iter(await read(self._link, "read records", self._names, keys))
            return [[next(found) for _ in bundle] for bundle in bundles]
        raise self._overdue()

    async def _write(self, bundles: list[Sequence[Write]]) -> Sequence[Sequence[PutAnswer]]:
        writes = [write for bundle in bundles for write in bundle]
        with self._time.scope():
            answers = iter(await write(self._link, self._names, self._versions, writes))
            return [[next(answers) for _ in bundle] for bundle in bundles]
        raise self._overdue()

    async def _largest_value(self) -> int:
        """Ask every server how large a value may be; the smallest answer counts."""
        sizes = [LARGEST_VALUE]
        for node in await self._link.nodes():
            try:
                [found] = await self._link.call_node(node, ("CONFIG", "GET", *SIZE_LIMITS))
            except CommandRefused:
                continue  # this user may not ask, so the default counts
            sizes += [int(size) for size in found[1::2] if int(size)]
        return min(sizes) - BESIDE_THE_VALUE

    def _overdue(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Redis at {self._link.options.shown} did not answer within {self._limit:g} s",
            facts=["the call may have been carried out"],
        )


def _whole(answers: Sequence[T | Failure]) -> list[T]:
    """Return the answers of a batch; raise the error of one that could not be had."""
    failure = first_failure(answers)
    if failure is not None:
        raise failure
    return [answer for answer in answers if not isinstance(answer, Failure)]
