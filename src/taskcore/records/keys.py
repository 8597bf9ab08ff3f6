"""Idempotency keys: one committed outcome per key within its window, and duplicates get that outcome (C10).

The record of a key goes through three states:

    sent ──acquire──▶ held ──complete──▶ done       the fence grows with every holder
      ▲                 │
      └─────release─────┘ the job died, was cancelled, or is tried again later

    sent   a job with this key was enqueued; `job` says which
    held   a worker runs it until `until`; a holder that lost the key cannot complete, because the version has changed
    done   the outcome of the first job that completed

The settling worker completes a key, or the job itself does, in the transaction that holds its effect (``Completion``).

Two states are not enough: a store that only knows "seen" either loses the work of a worker that died after it had
written "seen", or lets a second run begin while the first is under way.

The conflict rule, for a worker whose write meets another version: a record with the same job and fence was written by
this very start, and its outcome stands (``Completed``); any other record means that the key is lost (``Lost``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import anyio
import msgspec

from taskcore.errors import UnreadableRecord
from taskcore.store import ABSENT, Conflict, Expect, Record, Store, Version, Write, record_decoder
from taskcore.toolkit.logging import logger

__all__ = [
    "Acquired",
    "Acquisition",
    "Busy",
    "Completed",
    "Completion",
    "IdempotencyKeys",
    "KeyRecord",
    "Lost",
    "decode_key_record",
]

log = logger("taskcore.worker")

NOTHING = msgspec.Raw()
ACQUIRE_TRIES = 5  #: how often a lost race for a key is run again before the key counts as held
BUSY_RETRY = 1.0  #: seconds after which a job asks again for a key that is fought over


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The record of a key.

    :param key: the key as the caller wrote it, for people.
    :param job: the job that claimed it.
    :param args: fingerprint of that job's arguments.
    :param queue: where that job was sent.
    :param confirmed: whether the broker is known to have that job.
    :param fence: grows with each holder.
    :param until: when a holder that says nothing more counts as gone, in seconds since the epoch.
    :param outcome: the encoded outcome when done; empty before.
    """

    key: str
    job: str
    args: str
    state: Literal["sent", "held", "done"] = "sent"
    queue: str = "default"
    confirmed: bool = False
    fence: int = 0
    until: float = 0.0
    outcome: msgspec.Raw = NOTHING


class Completion(msgspec.Struct, frozen=True):
    """The outcome of a key as the job itself may commit it, in one transaction with its effect.

    Fenced by the holder and not by the record's version, which changes at each renewal.

    :param name: of the record.
    :param value: what it becomes.
    :param keep: seconds for which it is kept.
    :param job, fence: of the holder that completes the key.
    """

    name: str
    value: bytes
    keep: float
    job: str
    fence: int

    def conflict(self, found: bytes) -> str | None:
        """Find why it may not replace this record; None if this very start of the job still holds the key."""
        claim = decode_key_record(found)
        if (claim.state, claim.job, claim.fence) == ("held", self.job, self.fence):
            return None
        whose = "this job" if claim.job == self.job else f"job {claim.job}"
        return f"the key is {claim.state} by {whose} with fence {claim.fence}; this start has fence {self.fence}"


class Acquired(msgspec.Struct):
    """The key belongs to this start of the job: run, then complete or release.

    :param version: of the record as it was last written; a renewal changes it.
    :param window: seconds for which the record is kept after the end.
    :param keep: seconds for which it is kept while it is held; never less than a hold lasts.
    """

    name: str
    claim: KeyRecord
    version: Version
    window: float
    keep: float


class Busy(msgspec.Struct, frozen=True):
    """Another job holds the key; ask again after so many seconds."""

    after: float


class Completed(msgspec.Struct, frozen=True):
    """The work was done before: by which job, and its encoded outcome."""

    job: str
    outcome: bytes


class Lost(msgspec.Struct, frozen=True):
    """The key was taken by another holder, so that nothing was committed.

    :param same_job: the holder is another start of this very job, which decides how the job ends.
    """

    same_job: bool


Acquisition: TypeAlias = Acquired | Busy | Completed

_encode = msgspec.json.Encoder().encode
decode_key_record = record_decoder(KeyRecord, "the record of an idempotency key")


class IdempotencyKeys:
    """Claim, acquire, complete and release keys over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.acquired: Callable[[Acquired], None] = lambda _: None  #: called with each key that is acquired
        self._writing = anyio.Lock()  # a renewal changes the version that a commit expects

    # ── the sender's side ──

    @staticmethod
    def claim(name: str, claim: KeyRecord, keep: float, *, expect: Expect = ABSENT) -> Write:
        """Make the write that claims a key for a job about to be sent; a Conflict holds the claim that stands.

        :param expect: the version of a claim whose job is gone without a committed outcome.
        """
        return Write(key=name, value=_encode(claim), expect=expect, keep=keep)

    @staticmethod
    def confirm(name: str, claim: KeyRecord, version: Version, keep: float) -> Write:
        """Make the write that says: the broker has the job. Without it a duplicate publishes the same id again."""
        confirmed = msgspec.structs.replace(claim, confirmed=True)
        return Write(key=name, value=_encode(confirmed), expect=version, keep=keep)

    @staticmethod
    def retract(name: str, version: Version) -> Write:
        """Make the write that deletes a claim whose job was refused."""
        return Write(key=name, value=None, expect=version)

    # ── the worker's side ──

    async def acquire(
        self,
        name: str,
        claim: KeyRecord,
        *,
        lease: float,
        now: float,
        keep: float,
        least_fence: int = 1,
        may_overlap: bool = False,
    ) -> Acquisition:
        """Acquire the key for a job that is about to start.

        A job that holds the key itself acquires it anew at once: the broker's lease says that its former holder is
        gone.

        :param claim: the job that asks, and its arguments.
        :param lease: seconds after which a silent holder counts as gone.
        :param now: seconds since the epoch.
        :param least_fence: above all fences that this job had before, should the record be gone meanwhile.
        :param may_overlap: the broker may have this job twice, so that its other holder may be alive: wait for it.
        """
        for _ in range(ACQUIRE_TRIES):
            record = await self._store.get(name)
            conflict = _look(record, None if may_overlap else claim.job, now)
            if conflict is not None:
                return conflict
            standing = decode_key_record(record.value) if record else None
            fence = max(standing.fence + 1 if standing else 1, least_fence)
            # The sender's fingerprint stays: it may have an older version of the task than this worker.
            args = standing.args if standing and standing.job == claim.job else claim.args
            held = msgspec.structs.replace(
                claim, state="held", confirmed=True, fence=fence, until=now + lease, args=args
            )
            expect = record.version if record else ABSENT
            longest = max(keep, lease)
            write = Write(key=name, value=_encode(held), expect=expect, keep=longest, reserve=True)
            [answer] = await self._store.put_many([write])
            if not isinstance(answer, Conflict):
                key = Acquired(name, held, answer, keep, longest)
                self.acquired(key)
                return key
        return Busy(BUSY_RETRY)

    async def renew_many(self, held: Sequence[Acquired], until: float) -> None:
        """Keep the keys of running jobs held until then; a key that is lost shows when its job ends."""
        if not held:
            return
        async with self._writing:
            writes = [self.renew(key, until) for key in held]
            for key, answer in zip(held, await self._store.put_many(writes), strict=True):
                if not isinstance(answer, Conflict):
                    key.version = answer
                elif isinstance(known := _expect_again(key, answer), int | str):
                    key.version = known  # renewed without an answer, or by the keeper process: the next one is written

    async def commit(self, ended: Sequence[tuple[Acquired, bytes | None]]) -> list[Completed | Lost | None]:
        """Write for each held key how its start ended; None for a key that was written.

        :param ended: each key with the encoded outcome that completes it, or with None, which releases it.
        """
        async with self._writing:
            writes = [self.release(key) if outcome is None else self.complete(key, outcome) for key, outcome in ended]
            answers = list(await self._store.put_many(writes))
            for index, answer in enumerate(answers):
                if isinstance(answer, Conflict) and (expect := _expect_again(ended[index][0], answer)) is not None:
                    again = msgspec.structs.replace(writes[index], expect=expect)
                    [answers[index]] = await self._store.put_many([again])
        return [
            _after_conflict(key, answer) if isinstance(answer, Conflict) else None
            for (key, _), answer in zip(ended, answers, strict=True)
        ]

    async def release_unrun(self, name: str, job: str, window: float) -> None:
        """Release the key of a job that ends without a run.

        The record is not deleted: a holder that is late must find that the key is lost.
        """
        record = await self._store.get(name)
        if record is None:
            return
        try:
            claim = decode_key_record(record.value)
        except UnreadableRecord as error:
            log.warning("the key of job %s is not released: %s", job, error.what)
            return
        if claim.job == job and claim.state != "done":
            await self._store.put_many([self.release(Acquired(name, claim, record.version, window, window))])

    @staticmethod
    def renew(acquired: Acquired, until: float) -> Write:
        """Make the write that keeps the key of a running job held."""
        held = _encode(msgspec.structs.replace(acquired.claim, until=until))
        return Write(key=acquired.name, value=held, expect=acquired.version, keep=acquired.keep, reserve=True)

    @staticmethod
    def complete(acquired: Acquired, outcome: bytes) -> Write:
        """Make the write that commits the outcome; a Conflict means that nothing was committed."""
        done = _done(acquired.claim, outcome)
        return Write(key=acquired.name, value=done, expect=acquired.version, keep=acquired.window, reserve=True)

    @staticmethod
    def completion(name: str, claim: KeyRecord, outcome: bytes, window: float) -> Completion:
        """Make the same for the job itself; the store's adapter writes it in the program's transaction."""
        return Completion(name, _done(claim, outcome), window, claim.job, claim.fence)

    @staticmethod
    def release(acquired: Acquired) -> Write:
        """Make the write that frees the key for the next attempt of the same job.

        Not a deletion, even when the job is to die: the broker may hand it out once more before its death is durable,
        and no other job may have acquired the key by then. A sender that meets the record sees that its job is dead.
        """
        sent = msgspec.structs.replace(acquired.claim, state="sent", until=0.0)
        return Write(
            key=acquired.name, value=_encode(sent), expect=acquired.version, keep=acquired.window, reserve=True
        )


def _done(claim: KeyRecord, outcome: bytes) -> bytes:
    return _encode(msgspec.structs.replace(claim, state="done", outcome=msgspec.Raw(outcome)))


def _look(record: Record | None, job: str | None, now: float) -> Busy | Completed | None:
    """Find why the key cannot be acquired; None if it can. ``job``: its own hold does not count."""
    if record is None:
        return None
    claim = decode_key_record(record.value)
    if claim.state == "done":
        return Completed(claim.job, bytes(claim.outcome))
    if claim.state == "held" and claim.job != job and claim.until > now:
        return Busy(min(claim.until - now, BUSY_RETRY))
    return None


def _expect_again(key: Acquired, conflict: Conflict) -> Expect | None:
    """Find what a second write has to expect; None if the record that stands is not to be written over."""
    if conflict.current is None:  # its window ended before the job did
        return ABSENT
    with suppress(UnreadableRecord):
        standing = decode_key_record(conflict.current.value)
        if _is_ours(key, standing) and standing.state == "held":  # the answer to a renewal was lost
            return conflict.current.version
    return None


def _after_conflict(key: Acquired, conflict: Conflict) -> Completed | Lost | None:
    """Apply the conflict rule: what the record that stands means for this start of the job."""
    try:
        standing = decode_key_record(conflict.current.value) if conflict.current is not None else None
    except UnreadableRecord:  # the next start of the job says so
        return Lost(same_job=False)
    if _is_ours(key, standing):
        if standing is None or standing.state != "done":
            return None
        return Completed(standing.job, bytes(standing.outcome))
    return Lost(standing is not None and standing.job == key.claim.job and standing.state != "sent")


def _is_ours(key: Acquired, standing: KeyRecord | None) -> bool:
    """Tell whether this start of the job wrote the record: an earlier try without an answer, or the function itself."""
    return standing is not None and (standing.job, standing.fence) == (key.claim.job, key.claim.fence)
