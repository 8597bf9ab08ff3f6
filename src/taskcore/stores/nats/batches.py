"""Removals: old versions and deleted records, gone for good, also when the server is killed.

A server does not write down what a limit of its stream has removed. After a kill it reads those messages from its disk
again, and shows them as soon as the message that replaced them is gone. It does write down what a client deletes. So
the stream keeps a few messages of a subject, and the store deletes the old ones itself:

    written over                  the version before is deleted
    deleted, if it is as expected a mark is written, if the server finds the record as expected; then the record is
                                  deleted, then the mark
    deleted, whatever it is       the record is deleted by its number, and the versions before it with it
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from taskcore.connections.nats import NatsLink, jetstream
from taskcore.errors import BrokerUnavailable

__all__ = ["Removal", "Removals"]

RETRY_AFTER: Final = 1.0  #: seconds after trouble
FINISH_TIMEOUT: Final = 1.0  #: seconds for what is left at the end
EXACT_DELETES: Final = (2, 10)  #: the version from which a message that was deleted by its number stays away


class Removal(NamedTuple):
    """A record that is to go.

    :param number: its last version.
    :param mark: the mark that stands for it; 0: none.
    """

    subject: bytes
    number: int
    mark: int = 0


class Removals:
    """Removes messages of one store's stream for good."""

    def __init__(self, link: NatsLink, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._old: list[int] = []
        self._marked: list[Removal] = []
        self._waiting = asyncio.Event()

    def add(self, old: Iterable[int], marked: Iterable[Removal]) -> None:
        """Let versions that were written over, and records that have a mark, be removed soon."""
        self._old += old
        self._marked += marked
        if self._old or self._marked:
            self._waiting.set()

    async def run(self) -> None:
        """Remove what is added, for ever."""
        while True:
            await self._waiting.wait()
            try:
                await self._remove_added()
            except BrokerUnavailable:  # a mark stands for each record until then
                await asyncio.sleep(RETRY_AFTER)

    async def finish(self) -> None:
        """Remove what is left, if the server answers soon."""
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT):
                await self._remove_added()

    async def _remove_added(self) -> None:
        old, marked = self._old[:], self._marked[:]
        if old:
            await jetstream.delete_messages(self._link, self._stream, old)
        if marked:
            await self.remove(marked)
        del self._old[: len(old)], self._marked[: len(marked)]
        if not self._old and not self._marked:
            self._waiting.clear()

    async def remove(self, removals: Sequence[Removal]) -> None:
        """Remove all versions of records up to these; a version that is written meanwhile stays.

        :raises BrokerUnavailable: some may be left.
        """
        if not removals:
            return
        alone = await self._without_others(removals) if self._link.version_numbers >= EXACT_DELETES else set[Removal]()
        await self._link.api_all(
            [
                (f"STREAM.PURGE.{self._stream}", {"filter": one.subject.decode(), "seq": max(one.number, one.mark) + 1})
                for one in removals
                if one not in alone
            ]
        )
        await jetstream.delete_messages(self._link, self._stream, [one.number for one in alone])
        await jetstream.delete_messages(self._link, self._stream, [one.mark for one in alone if one.mark])

    async def _without_others(self, removals: Sequence[Removal]) -> set[Removal]:
        """Return those of which there is no older version; a purge costs a server more than to look, and to delete."""
        calls = [jetstream.message_call(self._stream, seq=1, next_by_subj=one.subject.decode()) for one in removals]
        oldest = [jetstream.stored_in(answer) for answer in await self._link.api_all(calls)]
        return {one for one, found in zip(removals, oldest, strict=True) if found is None or found.number >= one.number}
