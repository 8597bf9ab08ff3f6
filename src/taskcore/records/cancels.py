"""Requests to cancel: a record per job says that the job must not start (C14).

Where a broker cannot take back a waiting job, its workers have to know of each request before they start a job, and
reading a record per job costs more than the job. So a request there is announced, too: in one record for all jobs,
whose version changes with each request, and which is gone when no request is left.

    request     cancel/<id> is written, then cancels/newest      the caller is answered ANNOUNCED_AFTER later
    worker      cancels/newest is read within READ_VALID_FOR while jobs start; cancel/<id> only when it has changed

A job that starts after the caller was answered starts under a read that began after the request was written: a read
is valid for less time than callers wait. Both count on their own clocks, and only durations.
"""

from __future__ import annotations

import anyio

from taskcore.records.names import NEWEST_CANCEL, cancel_name
from taskcore.store import ANY, Store, Version, unreadable_record

__all__ = ["ANNOUNCED_AFTER", "NO_REQUESTS", "READ_VALID_FOR", "Cancels"]

REQUESTED = b"1"  #: the value of a request
CANCEL_KEPT = 86_400.0  #: seconds for which a request is kept
NEWEST_KEPT = CANCEL_KEPT + 60.0  #: longer than any request that it announces, however a store rounds

ANNOUNCED_AFTER = 0.2  #: seconds after its announcement by which all workers act on a request
READ_VALID_FOR = 0.18  #: seconds for which a worker may act on what it read; less, so that clocks may differ in speed
NO_REQUESTS: Version = ""  #: stands for the version of an announcement that is not there


class Cancels:
    """Cancellation requests over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def request(self, job_id: str) -> None:
        """Ask that the job does not start."""
        await self._store.put(cancel_name(job_id), REQUESTED, expect=ANY, keep=CANCEL_KEPT)

    async def announce(self) -> None:
        """Announce requests that are written; return when every worker acts on them."""
        await self._store.put(NEWEST_CANCEL, REQUESTED, expect=ANY, keep=NEWEST_KEPT)
        await anyio.sleep(ANNOUNCED_AFTER)

    async def newest(self) -> Version:
        """Read which request was announced last; another version means that there are further ones."""
        record = await self._store.get(NEWEST_CANCEL)
        return NO_REQUESTS if record is None else record.version

    async def requested(self, job_id: str) -> bool:
        """Tell whether a caller asked to cancel the job.

        :raises UnreadableRecord: the record holds something else than a request (TC408).
        """
        record = await self._store.get(cancel_name(job_id))
        if record is not None and record.value != REQUESTED:
            raise unreadable_record(
                f"the record {cancel_name(job_id)}", record.value, "it is not a request to cancel a job"
            )
        return record is not None
