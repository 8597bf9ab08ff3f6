"""What travels: the envelope (what to do) and the trail (what happened to it so far).

The envelope is one JSON object that any language can write. Its bytes never change:

    {"v": 1,                                    version of this format
     "id": "019a…-7…",                          the job's id, a UUIDv7
     "task": "billing.charge", "version": 2,    which contract the arguments fit (version 1 may be left out)
     "queue": "billing",                        where it was sent first ("default" may be left out)
     "args": {"order_id": 7},                   arguments by name; not decoded until the task is known
     "enqueued_at": 1767225600.25,              seconds since the epoch, by the sender's clock
     "key": "7", "deadline": 1767229200.0,      idempotency key; no start after this time  (optional)
     "correlation_id": "…", "source": "…",      what it belongs to; its sender             (optional)
     "parent_id": "…", "tick": {"schedule": …}, the job, the instant that sent it          (optional)
     "timeout": 30.0, "retry": {"attempts": 1}, what this call has instead of its task's   (optional)
     "soft_timeout": 25.0,                      as "timeout"                               (optional)
     "headers": {"traceparent": "…"}}           strings to strings; never broker headers   (optional)

The names map one to one to CloudEvents: id, source, task → type, enqueued_at → time, args → data.

The trail travels beside the envelope and grows with every copy that a retry makes. Empty bytes: nothing happened yet.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec

from taskcore.errors import InvalidName, MalformedEnvelope
from taskcore.toolkit.units import LONGEST_DURATION, shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = [
    "CRASHES_KEPT", "FORMAT", "HEADERS_LIMIT", "ID_LIMIT", "KEY_LIMIT", "NAME_LIMIT", "CallRetry", "CrashRecord",
    "Envelope", "EnvelopeCodec", "ErrorRecord", "NewerFormat", "Tick", "Trail", "check_name", "decode_envelope",
    "decode_trail", "encode_envelope", "encode_trail", "is_name", "is_safe_id", "new_id", "running", "size_of_headers",
]  # fmt: skip

#: Ids stand in logs, in the names of records and in headers of brokers: short, and without control characters.
_UNSAFE = r"\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
ID_LIMIT = 512  #: characters that an id may have
KEY_LIMIT = 512  #: characters that an idempotency key may have
NAME_LIMIT = 128  #: characters that the name of a task or a queue may have
HEADERS_LIMIT = 8_192  #: bytes that the headers of one job may have, names and values together
COUNT_LIMIT = 1_000_000_000  #: the largest count that a trail may hold
CRASHES_KEPT = 25  #: starts without an outcome of which a trail knows worker and time
ERRORS_LIMIT = 100  #: errors that a trail may hold; ours has fewer

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LIMIT)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=COUNT_LIMIT)]
Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LIMIT)]

FORMAT = 1  #: the newest envelope format that this code reads, and the one it writes

FIRST_ERRORS, LAST_ERRORS = 5, 20  #: how many errors a trail keeps from its beginning and from its end (C13)


class CallRetry(PublicValue, frozen=True, omit_defaults=True, gc=False):
    """What one call has instead of the numbers of its task's retry policy; None: the task's own."""

    attempts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    base: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_DURATION)] | None = None
    factor: Annotated[float, msgspec.Meta(ge=1)] | None = None
    cap: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_DURATION)] | None = None
    jitter: Literal["full", "none"] | None = None


class Tick(PublicValue, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """Which instant of which schedule a job is for, in UTC; jobs that it sends do not inherit it."""

    schedule: Id
    at: datetime
    previous: datetime | None = None  #: the instant of the tick before this one, if there was one
    backfill: str | None = None  #: the label of the backfill that sent it


class Envelope(PublicValue, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """One job as it travels; the fields are explained at the top of this file."""

    shown: ClassVar = {"args": msgspec.json.decode}
    v: int
    id: Id
    task: Name
    version: Annotated[int, msgspec.Meta(ge=1, le=COUNT_LIMIT)] = 1
    queue: Name = "default"
    args: msgspec.Raw
    enqueued_at: float
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_LIMIT)] | None = None
    deadline: float | None = None
    correlation_id: Id | None = None
    source: Annotated[str, msgspec.Meta(max_length=ID_LIMIT)] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - each struct gets its own
    parent_id: Id | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DURATION)] | None = None
    retry: CallRetry | None = None
    tick: Tick | None = None
    soft_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


#: What runs here, if it is a job; in the end a :class:`taskcore.worker.Context`, which has the envelope.
running: ContextVar[Any] = ContextVar("taskcore.job")


class ErrorRecord(PublicValue, frozen=True, omit_defaults=True):
    """One error as text: never an object, never a class to import.

    ``when`` is in seconds since the epoch; ``where`` is the innermost place in the task's code; the
    ``traceback`` is kept for the latest error only.
    """

    type: str
    message: str
    when: float
    worker: str
    attempt: int
    where: str = ""
    traceback: str = ""


class CrashRecord(PublicValue, frozen=True):
    """A start that has no outcome: its worker, ``"?"`` if that is not known, and when it began or was noticed.

    ``when`` is in seconds since the epoch.
    """

    worker: str
    when: float


class Trail(PublicValue, frozen=True, omit_defaults=True):
    """What happened to a job so far. Numbers in it never shrink (C5).

    :param attempts: starts that ended in an error.
    :param crashes: marked starts that never ended in an outcome.
    :param first_lost: the job's first delivery, the only one whose start is not marked, ended without an outcome.
    :param copies: how often the job was put back with a new trail: retries, snoozes, waits.
    :param errors: the first 5 and the last 20 errors.
    :param crashed: the last starts without an outcome: of ``crashes``, and of the first delivery if it was lost.
    :param parked_since: when a worker first did not know the task, in seconds since the epoch.
    :param replay_of: the job whose dead letter this job replays.
    :param replays: how many replays led to this job, one after another.
    """

    attempts: Count = 0
    crashes: Count = 0
    first_lost: bool = False
    copies: Count = 0
    errors: Annotated[tuple[ErrorRecord, ...], msgspec.Meta(max_length=ERRORS_LIMIT)] = ()
    parked_since: float | None = None
    replay_of: Annotated[str, msgspec.Meta(max_length=ID_LIMIT)] | None = None
    crashed: Annotated[tuple[CrashRecord, ...], msgspec.Meta(max_length=CRASHES_KEPT)] = ()
    replays: Count = 0

    def with_error(self, record: ErrorRecord) -> Trail:
        """Add one more failed attempt, without older tracebacks and without the middle of a long list of errors."""
        older = tuple(msgspec.structs.replace(old, traceback="") if old.traceback else old for old in self.errors)
        errors = (*older, record)
        if len(errors) > FIRST_ERRORS + LAST_ERRORS:
            errors = errors[:FIRST_ERRORS] + errors[-LAST_ERRORS:]
        return msgspec.structs.replace(self, attempts=self.attempts + 1, errors=errors)

    def with_crashes(self, records: tuple[CrashRecord, ...]) -> Trail:
        """Add what is known of starts without an outcome; the oldest of many are left out."""
        return msgspec.structs.replace(self, crashed=(*self.crashed, *records)[-CRASHES_KEPT:])


NOTHING_YET = Trail()

_encode = msgspec.json.Encoder().encode
_encode_envelope: Callable[[Envelope], bytes] = _encode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_trail = msgspec.json.Decoder(Trail).decode


def encode_envelope(envelope: Envelope) -> bytes:
    """Encode an envelope; equal envelopes give equal bytes."""
    return _encode(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Decode an envelope.

    :raises NewerFormat: the envelope has a newer format, and is for newer workers.
    :raises MalformedEnvelope: for any other bytes that are not an envelope; never another exception (C20).
    """
    try:
        envelope = _decode_envelope(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _newer_format(data) or MalformedEnvelope(f"this is not an envelope: {error}") from error
    if envelope.v != FORMAT:
        raise _newer_format(data) or MalformedEnvelope(f"envelope format {envelope.v!r} does not exist")
    # Looked at here, not by a pattern of msgspec's: that costs more than all of the decoding.
    if not envelope.id.isprintable() or envelope.correlation_id or envelope.parent_id:
        _refuse_unsafe_ids(envelope)
    if envelope.headers and (size := size_of_headers(envelope.headers)) > HEADERS_LIMIT:
        raise MalformedEnvelope(f"this is not an envelope: its headers have {size:,} bytes, over {HEADERS_LIMIT:,}")
    return envelope


def _refuse_unsafe_ids(envelope: Envelope) -> None:
    for name in ("id", "correlation_id", "parent_id"):
        one = getattr(envelope, name)
        if one is not None and not is_safe_id(one):
            raise MalformedEnvelope(f"this is not an envelope: an id has control characters - at `$.{name}`")


def size_of_headers(headers: Mapping[str, str]) -> int:
    """Return the bytes of all names and values together."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())


def is_safe_id(text: str) -> bool:
    """Tell whether a text can be an id: 1 to 512 characters, none of which is a control character or a bidi mark."""
    return 0 < len(text) <= ID_LIMIT and re.search(rf"[{_UNSAFE}]", text) is None


class NewerFormat(MalformedEnvelope):
    """The envelope has a newer format than this program reads; a newer worker can read it.

    :ivar job_id, task, data: as far as they can be read; the bytes, for a feature that knows the format.
    """

    job_id, task, data = "?", "?", b""


class _AnyFormat(msgspec.Struct):
    """What an envelope of any format has."""

    v: int
    id: str = "?"
    task: str = "?"


def _newer_format(data: bytes) -> NewerFormat | None:
    try:
        head = msgspec.json.decode(data, type=_AnyFormat)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if head.v <= FORMAT:
        return None
    error = NewerFormat(
        f"envelope format {head.v} is not known here",
        facts=[f"this worker reads format {FORMAT}"],
        fix="upgrade the workers before the senders, then replay the dead letter",
    )
    error.job_id, error.task, error.data = head.id[:ID_LIMIT], head.task[:ID_LIMIT], data
    return error


class EnvelopeCodec:
    """Makes and reads the bytes of envelopes; every part of an app uses the same one.

    A subclass may wrap the bytes, to sign or to encrypt them. Its ``decode`` raises :class:`MalformedEnvelope` for all
    bytes that it refuses, and never another exception.
    """

    __slots__ = ()

    encode = staticmethod(_encode_envelope)  # not through a function of ours: once for each job
    decode = staticmethod(decode_envelope)


def encode_trail(trail: Trail) -> bytes:
    """Encode a trail; the trail of a new job has no bytes."""
    return b"" if trail == NOTHING_YET else _encode(trail)


def decode_trail(data: bytes) -> Trail:
    """Decode a trail.

    :raises MalformedEnvelope: for any bytes that are not a trail.
    """
    if not data:
        return NOTHING_YET
    try:
        return _decode_trail(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedEnvelope(f"this is not a trail: {error}") from error


# ── ids and names ────────────────────────────────────────────────────────────────────────────────

_random = random.Random()  # our own generator: a user's random.seed() must not make two processes invent the same ids
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_random.seed)

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def new_id() -> str:
    """Make a job id: a UUIDv7 (RFC 9562), which sorts by the time of its making."""
    milliseconds = time.time_ns() // 1_000_000
    bits = _random.getrandbits(74)
    value = milliseconds << 80 | _VERSION_7 | (bits >> 62) << 64 | _VARIANT | bits & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_NAME = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,{NAME_LIMIT - 1}}}")


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of a task or a queue."""
    return _NAME.fullmatch(text) is not None


def check_name(kind: str, name: Any) -> str:
    """Return the name, if it can travel on every broker.

    Names become subjects, routing keys and key names, so one alphabet fits all: lower-case letters, digits,
    ``_ . -``, at most 128 characters, beginning with a letter or a digit.

    :raises InvalidName: it cannot (TC308).
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    suggestion = re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-._")[:NAME_LIMIT] if isinstance(name, str) else ""
    raise InvalidName(
        f"{shorten_repr(name)} cannot be the name of a {kind}",
        facts=["allowed: lower-case letters, digits, _ . - (at most 128, beginning with a letter or digit)"],
        fix=f'for example "{suggestion}"' if suggestion else None,
    )
