"""Dead letters: jobs that cannot go on, each with a reason, readable and replayable (C13).

Written once over the backend's :class:`taskcore.backend.Admin`. A letter stays until it is replayed or dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

import msgspec

from taskcore.backend import Letter, Outgoing, Refused, Uncertain
from taskcore.components import Components
from taskcore.envelope import Envelope, ErrorRecord, Trail, check_name, decode_trail, encode_trail
from taskcore.errors import EnqueueRefused, EnqueueUncertain, InvalidSetting, LetterNotFound, MalformedEnvelope
from taskcore.observe import Event
from taskcore.toolkit.detached import start_detached
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = ["BuriedJob", "DeadLetter", "DeadLetterHook", "DeadLetters", "telling"]

log = logger("taskcore.deadletter")

PAGE = 100  #: letters fetched at a time


class DeadLetter(PublicValue, frozen=True, kw_only=True):
    """A dead job: its envelope, the reason, everything that was tried. A value: changing it changes no job.

    :param id: the argument of ``replay`` and ``drop``.
    :param job_id: the job's id; empty if the bytes are not an envelope.
    :param task: the task's name; empty if the bytes are not an envelope.
    :param when: when it was buried, in seconds since the epoch.
    :param envelope: the job as it was sent; None if the bytes are not an envelope.
    :param trail: attempts, crashes and errors.
    :param raw: the envelope's bytes, unchanged.
    """

    shown: ClassVar = {"raw": lambda raw: raw.decode(errors="replace")}

    id: str
    queue: str
    reason: str
    when: float
    job_id: str
    task: str
    envelope: Envelope | None
    trail: Trail
    raw: bytes

    @property
    def args(self) -> Any:
        """The arguments as plain JSON data; None if the bytes are not an envelope."""
        return msgspec.json.decode(self.envelope.args) if self.envelope else None


class BuriedJob(PublicValue, frozen=True, kw_only=True):
    """A job that has just become a dead letter, for :meth:`taskcore.App.on_dead_letter`.

    :param attempt: the number of the attempt that was the last.
    :param seconds: how long its function ran; None if it did not.
    :param error: the last error; None if there was none.
    """

    job_id: str
    task: str
    queue: str
    reason: str
    attempt: int
    seconds: float | None
    error: ErrorRecord | None


DeadLetterHook: TypeAlias = Callable[[BuriedJob], Awaitable[None] | None]


def telling(hook: DeadLetterHook) -> Callable[[Event], None]:
    """Make a listener that calls a hook after a job was buried; an error of the hook is logged.

    :raises InvalidSetting: it cannot be called (TC104).
    """
    if not callable(hook):
        raise InvalidSetting(f"{shorten_repr(hook)} is not a function", fix="@app.on_dead_letter on a function")

    def listen(event: Event) -> None:
        if event.name == "job.buried":
            answer = hook(BuriedJob(**event.facts))
            if answer is not None:
                start_detached(partial(_finish, answer), name="taskcore on_dead_letter")

    return listen


async def _finish(answer: Awaitable[None]) -> None:
    try:
        await answer
    except Exception:
        log.exception("a hook failed after a job was buried; the worker goes on")


class DeadLetters:
    """The dead letters of an app: ``app.dead_letters``."""

    def __init__(self, components: Components) -> None:
        self._admin = components.backend.admin
        self._clock = components.clock
        self._codec = components.codec

    async def read(self, queue: str = "default", *, task: str | None = None) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a queue, oldest first; only those of one task, if it is named."""
        after: str | None = None
        check_name("queue", queue)
        while page := await self._admin.letters(queue, limit=PAGE, after=after):
            for letter in page:
                opened = self._open(letter)
                if task is None or opened.task == task:
                    yield opened
            after = page[-1].id

    async def get(self, letter_id: str) -> DeadLetter:
        """Return one dead letter.

        :raises LetterNotFound: there is none with that id (TC407).
        """
        letter = await self._admin.letter(letter_id) if _can_be(letter_id) else None
        if letter is None:
            raise _not_found(letter_id)
        return self._open(letter)

    async def replay(self, letter_id: str) -> str:
        """Send the job again, as a new job that links back to the old one; return its id.

        Arguments, key, headers and correlation id stay; attempts begin anew; the old deadline is dropped.
        Replaying a letter twice, or again after a crash, makes one new job: its id follows from the letter.

        :raises LetterNotFound: there is none with that id, or it does not hold an envelope (TC407).
        :raises EnqueueRefused: the broker refused the new job; the letter stays (TC203).
        :raises EnqueueUncertain: no answer; replaying again sends the same id (TC202).
        """
        letter = await self.get(letter_id)
        if letter.envelope is None:
            raise LetterNotFound(
                f"dead letter {letter_id} does not hold an envelope, so there is no job to replay",
                facts=[f"its reason: {letter.reason}"],
                fix="read its `raw` bytes, enqueue the work anew, then drop the letter",
            )
        old = letter.envelope
        job_id = _next_incarnation(letter)
        envelope = msgspec.structs.replace(
            old, id=job_id, enqueued_at=self._clock(), deadline=None, correlation_id=old.correlation_id or old.id
        )
        trail = encode_trail(Trail(replay_of=old.id))
        published = await self._admin.replay(
            letter_id, Outgoing(letter.queue, job_id, self._codec.encode(envelope), trail)
        )
        if isinstance(published, Refused):
            what = f"the replay of dead letter {letter_id} was refused: {published.why}"
            raise EnqueueRefused(what, fix=published.fix or None)
        if isinstance(published, Uncertain):
            raise EnqueueUncertain(f"the replay of dead letter {letter_id} is uncertain: {published.why}")
        return job_id

    async def drop(self, letter_id: str) -> None:
        """Delete a dead letter.

        :raises LetterNotFound: there is none with that id (TC407).
        """
        if not (_can_be(letter_id) and await self._admin.drop(letter_id)):
            raise _not_found(letter_id)

    async def count(self, queue: str = "default") -> int:
        """Count the dead letters of a queue."""
        return (await self._admin.stats(check_name("queue", queue))).dead

    def _open(self, letter: Letter) -> DeadLetter:
        try:
            envelope = self._codec.decode(letter.envelope)
        except MalformedEnvelope:
            envelope = None
        try:
            trail = decode_trail(letter.trail)
        except MalformedEnvelope:
            trail = Trail()
        return DeadLetter(
            id=letter.id,
            queue=letter.queue,
            reason=letter.reason,
            when=letter.when,
            job_id=envelope.id if envelope else "",
            task=envelope.task if envelope else "",
            envelope=envelope,
            trail=trail,
            raw=letter.envelope,
        )


def _can_be(letter_id: object) -> bool:
    """Tell whether this can be the id of a letter; nothing else is shown to a broker."""
    return isinstance(letter_id, str) and letter_id.isprintable()


def _next_incarnation(letter: DeadLetter) -> str:
    """Derive an id from the letter, a UUID of version 8: repeating a replay repeats the id."""
    digest = hashlib.blake2b(f"{letter.queue}/{letter.id}/{letter.when}".encode(), digest_size=16).digest()
    return str(UUID(int=UUID(bytes=digest).int & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62))


def _not_found(letter_id: str) -> LetterNotFound:
    return LetterNotFound(
        f"there is no dead letter {shorten_repr(letter_id)}", fix="`app.dead_letters.read(queue)` lists them"
    )
