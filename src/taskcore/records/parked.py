"""Parked: the tasks that a worker does not know, for callers who wait for their jobs, and how many jobs wait."""

from __future__ import annotations

import msgspec

from taskcore.errors import StoreRefused, UnreadableRecord
from taskcore.records.names import parked_in_name, parked_name
from taskcore.store import ABSENT, Conflict, Record, Store, Write

__all__ = ["ParkedJobs", "ParkedRecord", "count_parked", "find_parked", "park_write", "tell_parked"]

PARKED_KEPT = 120.0  #: seconds; a worker writes it again every minute while such jobs come
TRIES = 5  #: to write a count beside other workers; the next second brings the next count


class ParkedRecord(msgspec.Struct, frozen=True):
    """What a worker says about jobs of a task that it does not know. Times in seconds since the epoch.

    :param worker: its name.
    :param since: when it parked the job that it tells about; and ``until`` when that becomes a dead letter.
    """

    worker: str
    why: str
    since: float
    until: float


class ParkedJobs(msgspec.Struct, frozen=True):
    """How many jobs of a queue are parked: for each worker the number, and when the last of them is due."""

    workers: dict[str, tuple[int, float]] = {}

    def now(self, clock: float) -> ParkedJobs:
        """Leave out what is over."""
        return ParkedJobs({name: entry for name, entry in self.workers.items() if entry[1] > clock})


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ParkedRecord).decode
_decode_jobs = msgspec.json.Decoder(ParkedJobs).decode


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


async def count_parked(store: Store, queue: str, clock: float) -> int:
    """Count the parked jobs of a queue, as workers told it in the last second; 0 also if that cannot be read."""
    return sum(count for count, _ in _read(await _get(store, queue)).now(clock).workers.values())


async def tell_parked(store: Store, queue: str, worker: str, parked: int, until: float, *, clock: float) -> bool:
    """Tell how many jobs of a queue this worker has parked; False if other workers were always quicker.

    :param until: when the last of them is due.
    :param clock: what the clock says now.
    """
    for _ in range(TRIES):
        record = await _get(store, queue)
        others = {name: entry for name, entry in _read(record).now(clock).workers.items() if name != worker}
        told = ParkedJobs({**others, worker: (parked, until)} if parked else others)
        if record is None and not told.workers:
            return True
        last = max((entry[1] for entry in told.workers.values()), default=0.0)
        value = _encode(told) if told.workers else None
        expect = ABSENT if record is None else record.version
        name = parked_in_name(queue)
        [answer] = await store.put_many([Write(key=name, value=value, expect=expect, keep=max(last - clock, 1.0))])
        if not isinstance(answer, Conflict):
            return True
    return False


async def _get(store: Store, queue: str) -> Record | None:
    try:
        return await store.get(parked_in_name(queue))
    except (StoreRefused, UnreadableRecord):
        return None


def _read(record: Record | None) -> ParkedJobs:
    try:
        return ParkedJobs() if record is None else _decode_jobs(record.value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ParkedJobs()  # written over by the next count
