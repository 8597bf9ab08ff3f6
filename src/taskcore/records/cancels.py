"""Requests to cancel: a record per job says that the job must not start (C14)."""

from __future__ import annotations

from taskcore.records.names import cancel_name
from taskcore.store import ANY, Store, unreadable_record

__all__ = ["Cancels"]

REQUESTED = b"1"  #: the value of a request
CANCEL_KEPT = 86_400.0  #: seconds for which a request is kept


class Cancels:
    """Cancellation requests over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def request(self, job_id: str) -> None:
        """Ask that the job does not start."""
        await self._store.put(cancel_name(job_id), REQUESTED, expect=ANY, keep=CANCEL_KEPT)

    async def requested(self, job_id: str) -> bool:
        """Tell whether a caller asked to cancel the job.

        :raises UnreadableRecord: the record holds something else than a request (TC408).
        """
        record = await self._store.get(cancel_name(job_id))
        if record is not None and record.value != REQUESTED:
            raise unreadable_record(
                f"the record {cancel_name(job_id)}", record.value, "it is no request to cancel a job"
            )
        return record is not None
