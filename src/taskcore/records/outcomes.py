"""How jobs ended: each record is written once, pushed to waiters, and gone after its time.

The conflict rule (C18): an outcome that is stored stands. A worker that meets one accepts it, and settles its own job
as the stored outcome says.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable, StoreRefused
from taskcore.records.names import OUTCOME, outcome_name
from taskcore.store import ABSENT, Conflict, Store, Version, Write

__all__ = ["Existing", "Outcomes"]

ACCEPT_TRIES = 20  #: writes of an outcome that stands; two workers do not end one job more often


class Existing(msgspec.Struct, frozen=True, gc=False):
    """Another outcome was there before, and stands."""

    outcome: bytes


class Outcomes:
    """Encoded outcomes over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ── the worker's side ──

    @staticmethod
    def write(job_id: str, outcome: bytes, keep: float) -> Write:
        """Make the write of an outcome; it conflicts with one that is there (C18)."""
        return Write(key=OUTCOME + job_id, value=outcome, expect=ABSENT, keep=keep, reserve=True)

    async def write_many(self, writes: Sequence[Write]) -> list[Version | Existing]:
        """Do writes that ``write`` made: for each the version that was written, or the outcome that stands."""
        return [
            await self._accept_existing(write, answer) if isinstance(answer, Conflict) else answer
            for write, answer in zip(writes, await self._store.put_many(writes), strict=True)
        ]

    async def _accept_existing(self, write: Write, conflict: Conflict) -> Version | Existing:
        """Write the existing outcome once more, unchanged.

        Its writer may have lost the lease since, and must not retract the outcome on which this job's end is built.
        """
        for _ in range(ACCEPT_TRIES):
            found = conflict.current
            if found is None:  # retracted in this moment
                [answer] = await self._store.put_many([write])
                if not isinstance(answer, Conflict):
                    return answer
            else:
                answer = await self._store.put(write.key, found.value, expect=found.version, keep=write.keep)
                if not isinstance(answer, Conflict):
                    return Existing(found.value)
            conflict = answer
        raise StoreRefused(
            f"the record {write.key} was changed by other writers at each of {ACCEPT_TRIES} tries",
            fix="find the program that writes to this store",
        )

    async def retract(self, written: Sequence[tuple[str, Version]]) -> None:
        """Delete the outcomes of these jobs if they still have the version that was written."""
        if written:
            await self._store.put_many(
                [Write(key=outcome_name(job_id), value=None, expect=version) for job_id, version in written]
            )

    # ── the caller's side ──

    async def find(self, job_id: str) -> bytes | None:
        """Find the encoded outcome, if the job has one."""
        record = await self._store.get(outcome_name(job_id))
        return record.value if record else None

    async def wait(self, job_id: str, timeout: float | None) -> bytes | None:
        """Wait for the encoded outcome; None after ``timeout`` seconds.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        if timeout is None:  # a scope without a deadline would cost as much as the wait itself
            return await self._wait(job_id)
        with anyio.move_on_after(timeout):
            return await self._wait(job_id)
        return None

    async def _wait(self, job_id: str) -> bytes:
        async with self._store.watch(outcome_name(job_id)) as records:
            async for record in records:
                return record.value
        raise BrokerUnavailable("the store ended a watch by itself", fix="ask again")

    async def store(self, job_id: str, outcome: bytes, keep: float) -> bytes:
        """Store an outcome unless there is one; return the one that stands."""
        answer = await self._store.put(outcome_name(job_id), outcome, expect=ABSENT, keep=keep)
        if isinstance(answer, Conflict) and answer.current is not None:
            return answer.current.value
        return outcome
