"""A store that remembers which records were written through it, for the harness to delete them."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

from taskcore.errors import StoreRefused
from taskcore.store import Conflict, Expect, Record, Store, Version, Write, largest_value

__all__ = ["RecordingStore"]


class RecordingStore:
    """Any store, and a list of what was written.

    :param written: filled with each key that was written, and how long its record was to be kept at the last write.
    """

    def __init__(self, store: Store, written: MutableMapping[str, float | None]) -> None:
        self._store = store
        self._written = written

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    @property
    def max_value(self) -> int | None:
        """See :class:`taskcore.store.LimitsValues`."""
        return largest_value(self._store)

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`."""
        return await self._store.get_many(keys)

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        self._written[key] = keep  # before, because an answer may be lost
        try:
            return await self._store.put(key, value, expect=expect, keep=keep)
        except StoreRefused:
            del self._written[key]
            raise

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        return await self._store.delete(key, expect=expect)

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`."""
        self._written.update((write.key, write.keep) for write in writes if write.value is not None)
        return await self._store.put_many(writes)

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`."""
        return self._store.watch(key)
