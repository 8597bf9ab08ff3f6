"""Dead letters: one message each, in a stream beside the queue's.

The id of a letter is ``queue/number/job``: its number in the stream, and the job's token for a check.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskcore.backend import Letter, Outgoing, Published, Refused, Uncertain
from taskcore.backends.letter_walks import BatchedWalk
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
    async def walk(self, queue: str) -> AsyncIterator[BatchedWalk]:
        """Begin a pass over dead letters."""
        info = await self._link.api(f"STREAM.INFO.{self._streams.named(queue).dead_name}")
        newest = 0 if "error" in info else int(info["state"]["last_seq"])
        yield BatchedWalk(self, queue, letter_number, newest)

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
        [answer] = await self.replay_all([(letter_id, job)])
        return answer

    async def replay_all(self, batch: Sequence[tuple[str, Outgoing]]) -> Sequence[Published]:
        """Publish jobs, then drop their letters."""
        answers = await publish(self._link, self._streams, [job for _, job in batch])
        done = zip(batch, answers, strict=True)
        await self.drop_all([letter_id for (letter_id, _), one in done if not isinstance(one, Refused | Uncertain)])
        return answers

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter."""
        return await self.drop_all([letter_id]) > 0

    async def drop_all(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters that are what their ids say; return how many there were."""
        places = [place for place in map(_place_of, letter_ids) if place is not None]
        names = {queue: self._streams.named(queue).dead_name for queue, _, _ in places}
        calls = [jetstream.message_call(names[queue], seq=number) for queue, number, _ in places]
        found = zip(places, map(jetstream.stored_in, await self._link.api_all(calls)), strict=True)
        there = [
            (queue, number) for (queue, number, token), one in found if one is not None and _token_of(one) == token
        ]
        numbers = {queue: [number for of, number in there if of == queue] for queue in names}
        return sum([await jetstream.delete_messages(self._link, names[queue], numbers[queue]) for queue in names])


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
