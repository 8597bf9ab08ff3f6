"""Dead letters: messages in the queue of their own, seen one by one."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

from taskcore.backend import DUPLICATE, Letter, Published, Stored
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.browsing import Sheet, browse
from taskcore.backends.rabbitmq.messages import Parcel, split, whole_number
from taskcore.backends.rabbitmq.office import Office
from taskcore.backends.rabbitmq.publish import Sender
from taskcore.toolkit.failpoints import failpoint

__all__ = ["Letters"]

SOME = 100  #: letters that may be kept in memory beyond those of a page

WHEN, OF = b"tc-when", b"tc-of"
DIED, DIED_WHEN = b"x-death.reason", b"x-death.time"


class Letters:
    """The dead letters of all queues.

    A letter's id is ``<when>.<message>.<queue>``, so that it can be found, so that ids are in the order of their times,
    and so that the place of one that is gone is still known.
    """

    def __init__(self, office: Office, sender: Sender) -> None:
        self._office = office
        self._sender = sender

    async def page(self, queue: str, limit: int, after: str | None) -> Sequence[Letter]:
        """Up to ``limit`` letters behind a letter, oldest first.

        Each page looks at all of them, because the broker does not keep their order when they are given back.
        """
        found: list[Letter] = []
        twins: set[bytes] = set()
        async with browse(self._office, names.dead_letters(queue)) as reading:
            if reading is None:
                return []
            async for sheet in reading.sheets():
                of = sheet.properties.headers.get(OF, b"")
                if isinstance(of, bytes) and of:
                    if of in twins:  # written twice, because its writer died before he could say that it was written
                        reading.drop(sheet)
                        continue
                    twins.add(of)
                letter = letter_of(sheet, queue)
                if after is None or letter.id > after:
                    found.append(letter)
                if len(found) > 2 * limit + SOME:
                    found = nsmallest(limit, found, key=_id)
        return nsmallest(limit, found, key=_id)

    async def one(self, letter_id: str) -> Letter | None:
        """One letter."""
        queue = queue_of(letter_id)
        async with browse(self._office, names.dead_letters(queue)) as reading:
            if reading is not None:
                async for sheet in reading.sheets():
                    letter = letter_of(sheet, queue)
                    if letter.id == letter_id:
                        return letter
        return None

    async def drop(self, letter_id: str) -> bool:
        """Forget a letter; False if there is none of that id."""
        queue = queue_of(letter_id)
        async with browse(self._office, names.dead_letters(queue)) as reading:
            if reading is not None:
                async for sheet in reading.sheets():
                    if letter_of(sheet, queue).id == letter_id:
                        reading.drop(sheet)
                        return True
        return False

    async def replay(self, letter_id: str, parcel: Parcel) -> Published:
        """Send the job, then forget the letter; a letter that is gone was replayed or dropped by somebody else."""
        queue = queue_of(letter_id)
        async with browse(self._office, names.dead_letters(queue)) as reading:
            if reading is not None:
                async for sheet in reading.sheets():
                    if letter_of(sheet, queue).id == letter_id:
                        [answer] = await self._sender.send([parcel])
                        if isinstance(answer, Stored):
                            failpoint("rabbitmq.replay.stored")
                            reading.drop(sheet)
                        return answer
        return DUPLICATE


def letter_of(sheet: Sheet, queue: str) -> Letter:
    """A message in the queue of dead letters, whoever put it there."""
    properties = sheet.properties
    envelope, trail, reason = split(properties, sheet.body)
    when = whole_number(properties, WHEN) or 1_000_000 * whole_number(properties, DIED_WHEN)
    died = properties.headers.get(DIED)
    if reason:
        text = reason.decode(errors="replace")
    elif died == b"rejected":
        text = "too large to be copied with its story, so that the broker has put it here as it is"
    elif died == b"delivery_limit":
        text = "delivery limit: handed out again and again, and never settled"
    else:
        text = f"put here by the broker: {died.decode(errors='replace')}" if isinstance(died, bytes) else "unknown"
    return Letter(
        id=f"{when:014x}.{_plain(properties.message_id)}.{queue}",
        queue=queue,
        envelope=envelope,
        trail=trail,
        reason=text,
        when=when / 1_000_000,
    )


def _id(letter: Letter) -> str:
    return letter.id


def _plain(message_id: bytes) -> str:
    """The id of a message as one word; anything may be in a foreign one."""
    text = message_id.replace(b".", b"-")
    return text.decode() if text.replace(b"-", b"").isalnum() and text.isascii() else f"x{message_id.hex()}"


def queue_of(letter_id: str) -> str:
    """The queue in a letter's id; what is no such id names a queue that does not exist."""
    return letter_id.split(".", 2)[-1] if letter_id.count(".") >= 2 else ""  # noqa: PLR2004 - three parts
