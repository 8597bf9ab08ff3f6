"""Dead letters: one message each, in a stream beside the queue's.

The id of a letter is ``queue/number/job``: its number in the stream, and the job's token for a check.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskcore.backend import Letter, Outgoing, Published, Refused, Uncertain
from taskcore.backends.letter_walks import PagedWalk
from taskcore.backends.nats.layout import QueueStreams
from taskcore.backends.nats.messages import unpack
from taskcore.backends.nats.publish import publish
from taskcore.connections.nats import NatsLink, jetstream

__all__ = ["NatsLetters"]

NUMBER = re.compile("[0-9]{1,18}")


class NatsLetters:
    """The dead letters of all queues."""

    def __init__(self, link: NatsLink, streams: QueueStreams) -> None:
        self._link = link
        self._streams = streams

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        stream, start = self._streams.named(queue), letter_number(after or "") + 1
        found = await jetstream.messages_from(
            self._link, stream.dead_name, f"{stream.dead}*.*", start=start, limit=limit
        )
        return [_letter(queue, one) for one in found]

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[PagedWalk]:
        """Begin a pass over dead letters."""
        info = await self._link.api(f"STREAM.INFO.{self._streams.named(queue).dead_name}")
        newest = 0 if "error" in info else int(info["state"]["last_seq"])
        yield PagedWalk(self, queue, letter_number, newest)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        place = _place_of(letter_id)
        if place is None:
            return None
        queue, number, token = place
        found = await jetstream.find_message(self._link, self._streams.named(queue).dead_name, seq=number)
        return _letter(queue, found) if found is not None and _token_of(found) == token else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job, then drop the letter."""
        [answer] = await publish(self._link, self._streams, [job])
        if not isinstance(answer, Refused | Uncertain):
            await self.drop(letter_id)
        return answer

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter."""
        place = _place_of(letter_id)
        if place is None or await self.letter(letter_id) is None:
            return False
        return await jetstream.delete_messages(self._link, self._streams.named(place[0]).dead_name, [place[1]]) > 0


def _letter(queue: str, found: jetstream.StoredMessage) -> Letter:
    packed = unpack(found.body, found.headers)
    return Letter(
        id=f"{queue}/{found.number}/{_token_of(found)}",
        queue=queue,
        envelope=packed.envelope,
        trail=packed.trail,
        reason=packed.reason.decode("utf-8", "replace"),
        when=found.time,
    )


def letter_number(letter_id: str) -> int:
    """Return a letter's number in its stream, by which letters are in order."""
    place = _place_of(letter_id)
    return 0 if place is None else place[1]


def _token_of(letter: jetstream.StoredMessage) -> str:
    return letter.subject.split(".")[-2]


def _place_of(letter_id: str) -> tuple[str, int, str] | None:
    """Return queue, number and job of a letter."""
    parts = letter_id.rsplit("/", 2)
    if len(parts) != 3 or not NUMBER.fullmatch(parts[1]):  # noqa: PLR2004 - what a letter's id has
        return None
    return parts[0], int(parts[1]), parts[2]
