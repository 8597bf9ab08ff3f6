"""FlakyAdmin: the look-ups and the removing, with their backend's faults; the verb is ``admin`` or ``admin.<name>``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from taskcore.backend import Admin, Letter, LetterWalk, Outgoing, Place, Published, QueueStats

if TYPE_CHECKING:
    from taskcore.faults.calls import Faults

__all__ = ["FlakyAdmin"]

T = TypeVar("T")


class FlakyAdmin:
    """See :class:`taskcore.backend.Admin` for each of them."""

    def __init__(self, admin: Admin, faults: Faults) -> None:
        self._admin = admin
        self._faults = faults

    async def queues(self) -> Sequence[str]:
        """List the queues that exist."""
        return await self._do("queues", self._admin.queues)

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is."""
        return await self._do("stats", lambda: self._admin.stats(queues))

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[LetterWalk]:
        """Begin a pass over dead letters; what fails is its beginning, or a call of its verbs."""
        async with self._admin.walk(queue) as walk:
            yield _FlakyWalk(walk, self._do)

    async def purge(self, queue: str) -> int:
        """Forget all ready and scheduled jobs."""
        return await self._do("purge", lambda: self._admin.purge(queue))

    async def delete(self, queue: str) -> None:
        """Forget the queue itself."""
        return await self._do("delete", lambda: self._admin.delete(queue))

    async def remove(self, queue: str, job_id: str) -> bool:
        """Forget one job."""
        return await self._do("remove", lambda: self._admin.remove(queue, job_id))

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return a page of dead letters."""
        return await self._do("letters", lambda: self._admin.letters(queue, limit=limit, after=after))

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Find where a job is."""
        return await self._do("locate", lambda: self._admin.locate(queue, job_id))

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        return await self._do("letter", lambda: self._admin.letter(letter_id))

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and drop the letter."""
        return await self._do("replay", lambda: self._admin.replay(letter_id, job))

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter."""
        return await self._do("drop", lambda: self._admin.drop(letter_id))

    async def _do(self, name: str, do: Callable[[], Awaitable[T]]) -> T:
        return await self._faults.around(f"admin.{name}", (), lambda _: do())


class _FlakyWalk:
    """A pass whose verbs fail as those of the admin: ``admin.walk.<name>``."""

    def __init__(self, walk: LetterWalk, do: Callable[..., Any]) -> None:
        self._walk = walk
        self._do = do

    async def page(self, limit: int) -> Sequence[Letter]:
        found: Sequence[Letter] = await self._do("walk.page", lambda: self._walk.page(limit))
        return found

    async def drop(self, letters: Sequence[Letter]) -> int:
        dropped: int = await self._do("walk.drop", lambda: self._walk.drop(letters))
        return dropped

    async def replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        answers: Sequence[Published] = await self._do("walk.replay", lambda: self._walk.replay(batch))
        return answers
