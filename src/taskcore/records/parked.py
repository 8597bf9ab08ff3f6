"""Parked: which tasks a worker does not know, so that callers who wait for their jobs learn it."""

from __future__ import annotations

import msgspec

from taskcore.records.names import parked_name
from taskcore.store import Store, Write

__all__ = ["ParkedRecord", "find_parked", "park_write"]

PARKED_KEPT = 120.0  #: seconds; a worker writes it again every minute while such jobs come


class ParkedRecord(msgspec.Struct, frozen=True):
    """What a worker says about jobs of a task that it does not know. Times in seconds since the epoch.

    :param worker: its name.
    :param since: when it parked the job that it tells about; and ``until`` when that becomes a dead letter.
    """

    worker: str
    why: str
    since: float
    until: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ParkedRecord).decode


def park_write(task: str, record: ParkedRecord) -> Write:
    """Make the write that tells callers."""
    return Write(key=parked_name(task), value=_encode(record), keep=PARKED_KEPT)


async def find_parked(store: Store, task: str) -> ParkedRecord | None:
    """Find what a worker said about a task lately; None also if it cannot be read."""
    record = await store.get(parked_name(task))
    try:
        return None if record is None else _decode(record.value)
    except (msgspec.MsgspecError, ValueError):
        return None
