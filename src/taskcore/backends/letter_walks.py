"""A pass over dead letters on brokers that show a letter without taking it: page by page, up to the newest of now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from taskcore.backend import Letter, Outgoing, Published

__all__ = ["PagedWalk", "PlainWalk"]

LETTERS_PER_PAGE: Final = 100  #: letters that are dropped or replayed at a time


class HasLetters(Protocol):
    """The part of an admin that a pass stands on."""

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return a page of dead letters."""
        ...

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and drop the letter."""
        ...

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter."""
        ...


class PlainWalk:
    """Drops and replays letters as single calls would, many at a time."""

    def __init__(self, admin: HasLetters) -> None:
        self._admin = admin

    async def drop(self, letters: Sequence[Letter]) -> int:
        """Forget letters; return how many were still there."""
        from taskcore.toolkit.batching import gather_limited  # noqa: PLC0415 - it loads asyncio, which declaring does not

        return sum(await gather_limited(lambda letter: self._admin.drop(letter.id), letters, limit=LETTERS_PER_PAGE))

    async def replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        """Publish jobs and drop their letters."""
        from taskcore.toolkit.batching import gather_limited  # noqa: PLC0415 - as above

        return await gather_limited(lambda one: self._admin.replay(one[0].id, one[1]), batch, limit=LETTERS_PER_PAGE)


class PagedWalk(PlainWalk):
    """Reads page by page, up to the newest letter of its beginning.

    :param number_of: the number in a letter's id, by which letters are in order.
    :param newest: the number of the last letter of this pass.
    """

    def __init__(self, admin: HasLetters, queue: str, number_of: Callable[[str], Any], newest: Any) -> None:
        super().__init__(admin)
        self._queue = queue
        self._number_of = number_of
        self._newest = newest
        self._after: str | None = None

    async def page(self, limit: int) -> Sequence[Letter]:
        """Return the next letters."""
        found = await self._admin.letters(self._queue, limit=limit, after=self._after)
        page = [letter for letter in found if self._number_of(letter.id) <= self._newest]
        if page:
            self._after = page[-1].id
        return page
