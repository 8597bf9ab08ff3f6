"""What a dead letter is: a job that cannot go on, its reason, and everything that was tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, TypeAlias

import msgspec

from taskcore.backend import Letter
from taskcore.deadletter.causes import fingerprint
from taskcore.envelope import Envelope, EnvelopeCodec, ErrorRecord, Trail, decode_trail
from taskcore.errors import InvalidSetting, MalformedEnvelope
from taskcore.observe import Event
from taskcore.toolkit.detached import start_detached
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = ["BuriedJob", "DeadLetter", "DeadLetterHook", "open_letter", "telling"]

log = logger("taskcore.deadletter")


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

    @property
    def cause(self) -> str:
        """The fingerprint of its cause; letters that died of the same have the same, see ``DeadLetters.causes``."""
        return fingerprint(self.task, self.reason, self.trail.errors[-1] if self.trail.errors else None)


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

    @property
    def cause(self) -> str:
        """The fingerprint of its cause, as that of its letter."""
        return fingerprint(self.task, self.reason, self.error)


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


def open_letter(letter: Letter, codec: EnvelopeCodec) -> DeadLetter:
    """Open what a broker keeps; never raises, whatever the bytes are."""
    try:
        envelope = codec.decode(letter.envelope)
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
