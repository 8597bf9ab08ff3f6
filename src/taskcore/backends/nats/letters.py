"""Dead letters: one message each, in a stream beside the queue's.

The id of a letter is ``queue/number/job``: its number in the stream, and the job's token for a check.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from taskcore.backend import Letter, Outgoing, Published, Refused, Uncertain
from taskcore.backends.nats.layout import QueueStreams
from taskcore.backends.nats.messages import unpack
from taskcore.backends.nats.publish import publish
from taskcore.connections.nats import NatsLink
from taskcore.connections.nats.jetstream import broker_time, stored_in

__all__ = ["NatsLetters"]


class NatsLetters:
    """The dead letters of all queues."""

    def __init__(self, link: NatsLink, streams: QueueStreams) -> None:
        self._link = link
        self._streams = streams

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        names = self._streams.names(queue)
        letters: list[Letter] = []
        place = _place_of(after) if after else None
        number = place[1] if place is not None else 0
        while len(letters) < limit:
            body = {"seq": number + 1, "next_by_subj": f"{names.dead}*.*"}
            found = await self._link.api(f"STREAM.MSG.GET.{names.dead_stream}", body)
            stored = stored_in(found)
            if stored is None:
                break
            number = int(stored["seq"])
            letters.append(_letter(queue, stored))
        return letters

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        place = _place_of(letter_id)
        if place is None:
            return None
        queue, number, token = place
        found = await self._link.api(f"STREAM.MSG.GET.{self._streams.names(queue).dead_stream}", {"seq": number})
        stored = stored_in(found)
        if stored is None or stored["subject"].split(".")[-2] != token:
            return None
        return _letter(queue, stored)

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
        stream = self._streams.names(place[0]).dead_stream
        dropped = await self._link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": place[1], "no_erase": True})
        return bool(dropped.get("success"))


def _letter(queue: str, found: Mapping[str, Any]) -> Letter:
    headers = base64.b64decode(found.get("hdrs") or "")
    packed = unpack(base64.b64decode(found.get("data") or ""), headers)
    token = found["subject"].split(".")[-2]
    return Letter(
        id=f"{queue}/{found['seq']}/{token}",
        queue=queue,
        envelope=packed.envelope,
        trail=packed.trail,
        reason=packed.reason.decode("utf-8", "replace"),
        when=broker_time(found["time"]),
    )


def _place_of(letter_id: str) -> tuple[str, int, str] | None:
    """Return queue, number and job of a letter."""
    parts = letter_id.rsplit("/", 2)
    if len(parts) != 3 or not parts[1].isdigit():  # noqa: PLR2004 - what a letter's id has
        return None
    return parts[0], int(parts[1]), parts[2]
