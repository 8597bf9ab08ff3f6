"""Parked: the tasks that a worker does not know, for callers who wait for their jobs, and how many jobs wait."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, TypeAlias

import msgspec

from taskcore.errors import UnreadableRecord
from taskcore.records.names import parked_in_name, parked_name
from taskcore.store import ABSENT, ANY, Expect, Store

__all__ = ["PARKED_KEPT", "ParkedJobs", "ParkedRecord", "count_parked", "find_parked", "find_parked_jobs"]

PARKED_KEPT = 120.0  #: seconds; jobs are parked for a minute at most, then a worker writes it again


class ParkedRecord(msgspec.Struct, frozen=True):
    """What a worker says about jobs of a task that it does not know. Times in seconds since the epoch.

    :param worker: its name.
    :param since: when it parked the job that it tells about; and ``until`` when that becomes a dead letter.
    """

    worker: str
    why: str
    since: float
    until: float


#: How many jobs of a queue are parked: for each worker the number, and when the last of them is due.
ParkedJobs: TypeAlias = dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], float]]

_decode = msgspec.json.Decoder(ParkedRecord).decode
_decode_jobs = msgspec.json.Decoder(ParkedJobs).decode


async def find_parked(store: Store, task: str) -> ParkedRecord | None:
    """Find what a worker said about a task lately; None also if it cannot be read."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError, UnreadableRecord):
        record = await store.get(parked_name(task))
        return None if record is None else _decode(record.value)
    return None


async def count_parked(store: Store, queue: str, clock: float) -> int:
    """Count the parked jobs of a queue, as workers told it in the last second."""
    parked, _ = await find_parked_jobs(store, queue, clock)
    return sum(count for count, _ in parked.values())


async def find_parked_jobs(store: Store, queue: str, clock: float) -> tuple[ParkedJobs, Expect]:
    """Find the parked jobs of a queue, and what the next write has to expect; none also if that cannot be read."""
    try:
        record = await store.get(parked_in_name(queue))
    except UnreadableRecord:
        return {}, ANY
    if record is None:
        return {}, ABSENT
    parked: ParkedJobs = {}
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        parked = _decode_jobs(record.value)
    return {name: entry for name, entry in parked.items() if clock < entry[1] < clock + PARKED_KEPT}, record.version
