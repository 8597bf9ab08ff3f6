"""The records of schedules: one for each schedule, and an index of all ids, because a store cannot list its records.

    schedule/<id>           timetable, policies, the packed call, and how far the schedule has got
    schedules/<0…15>        the ids of a sixteenth of all schedules, each with its revision
    schedules/changed       written with each change of the index; instances watch it

The conflict rule: every write of a schedule's record expects the version that was read. A write that meets another
version is not done; its writer takes the record that stands, and decides anew from it. So an instant is claimed once.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from taskcore.envelope import CallRetry
from taskcore.records.names import key_name
from taskcore.schedules.timetable import Timetable
from taskcore.store import record_decoder

__all__ = [
    "CHANGED",
    "SHARDS",
    "LastTick",
    "Missed",
    "Overlap",
    "PackedCall",
    "Policies",
    "ScheduleRecord",
    "TickClaim",
    "decode_index",
    "decode_record",
    "encode_index",
    "encode_record",
    "index_name",
    "index_names",
    "key_record_of",
    "record_name",
    "tick_id",
    "tick_key",
]

SHARDS = 16  #: records of the index
CHANGED = "schedules/changed"  #: the record that is written with each change of the index

Missed: TypeAlias = Literal["once", "skip", "all"]
Overlap: TypeAlias = Literal["skip", "allow", "queue", "latest"]


class Policies(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What happens to instants that could not fire in time. Times in milliseconds.

    :param missed: what fires of the instants that are later than ``grace``.
    :param limit: how many missed instants fire at most, with ``missed="all"``.
    :param within: how old they may be.
    :param grace: how late an instant may fire without counting as missed.
    :param overlap: what happens to an instant while the job of the one before has not ended.
    :param stale_after: after this time a tick no longer holds up the next one, whatever became of its job.
    """

    missed: Missed = "once"
    limit: int = 100
    within: int = 7 * 86_400_000
    grace: int = 30_000
    overlap: Overlap = "skip"
    stale_after: int = 86_400_000


class PackedCall(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The call that a schedule sends: task, contract version, arguments, and the options of the call.

    :param at_most_once: the task runs at most once, so a tick that may be published is not published again.
    """

    task: str
    version: int = 1
    args: msgspec.Raw = msgspec.Raw(b"{}")
    key: str | None = None
    queue: str | None = None
    delay: float = 0.0
    headers: dict[str, str] = {}
    expires: float | None = None
    correlation_id: str | None = None
    timeout: float | None = None
    soft_timeout: float | None = None
    retry: CallRetry | None = None
    at_most_once: bool = False


class TickClaim(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A tick that is claimed and not yet known to be published. Times in milliseconds.

    :param at: its instant.
    :param since: when it was claimed, by the clock of the claimer.
    :param previous: the instant before it.
    :param of: the schedule's id when it was claimed, if it was renamed since.
    """

    id: str
    at: int
    since: int
    previous: int | None = None
    of: str = ""


class LastTick(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The tick that was claimed last.

    :param key: the name of its key's record; empty if it has none.
    :param since: when it was claimed.
    """

    id: str
    at: int
    since: int
    key: str = ""


class ScheduleRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A schedule and how far it has got. Times in milliseconds since the epoch.

    :param origin: declared in code, or put at run time.
    :param release: of the program that declared it.
    :param revision: grows with each change of the definition, and with pause and resume.
    :param since: when this timetable was written.
    :param upto: every instant up to this one is decided.
    :param fired: how many ticks were claimed.
    :param open: ticks that are not yet known to be published.
    :param waiting: an instant that waits until the job of the last tick has ended.
    :param paused: since when it is paused, and ``note`` says why.
    :param missed: how many instants were passed over because they were missed.
    :param overlapped: how many were passed over because the job before had not ended.
    :param lost: how many ticks may have been lost: their task runs at most once, or their key is forgotten.
    :param seen: when a program last declared it.
    :param retired: the code no longer declares it, since then; ``moved`` is its new id, if it has one.
    """

    id: str
    origin: Literal["code", "put"]
    timetable: Timetable
    policies: Policies = Policies()
    call: PackedCall
    release: str | None = None
    revision: int = 1
    since: int
    upto: int
    fired: int = 0
    open: tuple[TickClaim, ...] = ()
    last: LastTick | None = None
    waiting: int | None = None
    paused: int | None = None
    note: str = ""
    missed: int = 0
    overlapped: int = 0
    lost: int = 0
    seen: int = 0
    retired: int | None = None
    moved: str = ""


_encode = msgspec.json.Encoder().encode
decode_record = record_decoder(ScheduleRecord, "the record of a schedule")
#: A part of the index: the revision of each id.
decode_index = record_decoder(dict[str, int], "a part of the index of schedules")


def encode_record(record: ScheduleRecord) -> bytes:
    """Encode a record."""
    return _encode(record)


def record_name(schedule: str) -> str:
    """Name the record of a schedule."""
    return f"schedule/{schedule}"


def index_name(schedule: str) -> str:
    """Name the part of the index that holds a schedule."""
    return f"schedules/{hashlib.blake2b(schedule.encode(), digest_size=1).digest()[0] % SHARDS}"


def index_names() -> list[str]:
    """Name all parts of the index."""
    return [f"schedules/{shard}" for shard in range(SHARDS)]


def tick_id(schedule: str, instant: int, label: str = "") -> str:
    """Derive the id of a tick's job, a UUID of version 8: every instance derives the same one."""
    digest = hashlib.blake2b(f"tick|{schedule}|{instant}|{label}".encode(), digest_size=16).digest()
    return str(UUID(int=int.from_bytes(digest, "big") & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62))


def tick_key(schedule: str, instant: int, label: str = "") -> str:
    """Make the idempotency key of a tick, for tasks that have none of their own."""
    return f"schedule/{schedule}@{instant / 1000:.3f}" + (f"#{label}" if label else "")


def key_record_of(record: ScheduleRecord, instant: int) -> str:
    """Name the record of a tick's key; empty for a task that runs at most once, which has none."""
    call = record.call
    if call.at_most_once:
        return ""
    return key_name(call.task, call.key if call.key is not None else tick_key(record.id, instant))


def encode_index(index: dict[str, Any]) -> bytes:
    """Encode a part of the index."""
    return _encode(index)
