"""FlakyBackend and FlakyStore: any broker and any store, with faults on command.

    flaky = FlakyBackend(backend)                       opening it opens the backend
    app = App(flaky, store=FlakyStore(store))           or harness.app(around=FlakyBackend, around_store=FlakyStore)
    flaky.next("publish", Fail())                       the next publish fails, nothing is stored
    flaky.always("settle", DropReply())                 verdicts are carried out, but the caller gets no reply
    flaky.play("receive", [None, Delay(2.0), Fail()])   the first goes well, the second is slow, the third fails
    flaky.partition()                                   unreachable, for every verb
    flaky.heal()                                        all is well again; hanging calls end
    assert flaky.calls["settle"] == 3

    verbs of a backend   connect publish receive settle extend admin (one of them: "admin.remove")
    verbs of a store     connect get get_many put delete put_many watch

Faults keep to what the seams promise, as an honest adapter does: a dropped reply to ``publish`` is answered
Uncertain, to the other verbs it is BrokerUnavailable. ``DropReply("raise")`` breaks the promise of ``publish``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeVar

from taskcore.backend import Admin, Backend, Delivery, Features, Outgoing, Published, Source, Uncertain
from taskcore.faults.calls import Faults
from taskcore.faults.flaky_admin import FlakyAdmin
from taskcore.lifecycle import Verdict
from taskcore.store import Conflict, Expect, Record, Store, Version, Write

__all__ = ["FlakyBackend", "FlakyStore"]

Item = TypeVar("Item")


# ── the backend ──────────────────────────────────────────────────────────────────────────────────


class FlakyBackend(Faults):
    """A connection to a broker that fails on command; others to the same broker are not touched."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    @property
    def features(self) -> Features:
        """See :class:`taskcore.backend.Backend`."""
        return self._backend.features

    @property
    def admin(self) -> Admin:
        """See :class:`taskcore.backend.Backend`."""
        return FlakyAdmin(self._backend.admin, self)

    async def __aenter__(self) -> Self:
        await self.around("connect", (), lambda _: self._backend.__aenter__())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._backend.__aexit__(*exc)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """See :class:`taskcore.backend.Backend`."""
        return await self.around("publish", batch, self._backend.publish, unsure=_all_uncertain, reorder=_reversed)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """See :class:`taskcore.backend.Backend`."""
        return self._consuming(self._backend.consume(queues, lease=lease))

    @asynccontextmanager
    async def _consuming(self, context: AbstractAsyncContextManager[Source]) -> AsyncIterator[Source]:
        async with context as source:
            yield _FlakySource(source, self)


class _FlakySource:
    """A source with its backend's faults. Lost leases have no order, so reordering changes nothing in the answers."""

    def __init__(self, source: Source, faults: Faults) -> None:
        self._source = source
        self._faults = faults

    async def receive(self, limit: int) -> Sequence[Delivery]:
        async def receive(_: Sequence[Any]) -> Sequence[Delivery]:
            return await self._faults.unless_cut("receive", lambda: self._source.receive(limit))

        return await self._faults.around("receive", (), receive, reorder=_reversed)

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        return await self._faults.around("settle", batch, self._source.settle)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        return await self._faults.around("extend", batch, self._source.extend)


def _all_uncertain(batch: Sequence[Outgoing]) -> Sequence[Published]:
    return [Uncertain("the reply was lost") for _ in batch]


def _reversed(answers: Sequence[Item]) -> Sequence[Item]:
    return answers[::-1]


# ── the store ────────────────────────────────────────────────────────────────────────────────────


class FlakyStore(Faults):
    """A connection to a store that fails on command."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def __aenter__(self) -> Self:
        await self.around("connect", (), lambda _: self._store.__aenter__())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        return await self.around("get", (), lambda _: self._store.get(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`."""
        return await self.around("get_many", keys, self._store.get_many, reorder=_reversed)

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        return await self.around("put", (), lambda _: self._store.put(key, value, expect=expect, keep=keep))

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        return await self.around("delete", (), lambda _: self._store.delete(key, expect=expect))

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`."""
        return await self.around("put_many", writes, self._store.put_many, reorder=_reversed)

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Faults are met when it begins, a partition ends it at any time."""
        return self._watching(key)

    @asynccontextmanager
    async def _watching(self, key: str) -> AsyncIterator[AsyncIterator[Record]]:
        context = self._store.watch(key)
        records = await self.around("watch", (), lambda _: context.__aenter__())
        try:
            yield _FlakyRecords(records, self)
        finally:
            await context.__aexit__(None, None, None)


class _FlakyRecords:
    """News from a watch, until a partition."""

    def __init__(self, records: AsyncIterator[Record], faults: Faults) -> None:
        self._records = records
        self._faults = faults

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        return await self._faults.unless_cut("watch", lambda: anext(self._records))
