"""Idempotency keys: one committed outcome per key within its window, and duplicates get that outcome (C10).

The record of a key goes through three states:

    sent ──take──▶ held ──complete──▶ done          a fence grows with every holder
      ▲              │ release (the job died, was cancelled, is tried again later)
      └──────────────┘ deleted or back to sent

    sent   a job with this key was enqueued; `job` says which
    held   a worker runs it until `until`; a holder that lost its place cannot complete, because the version has changed
    done   the ending of the first job that completed

Who completes is the settling worker, or the job itself, in a transaction that holds its effect too (``Completion``).

Two states would not do: a store that only knows "seen" either loses the work of a worker that died after saying so,
or lets a second run begin while the first is still under way.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

from taskcore.store import ABSENT, Conflict, Record, Store, Version, Write

__all__ = [
    "Acquired",
    "Acquisition",
    "Busy",
    "Completed",
    "Completion",
    "IdempotencyKeys",
    "KeyRecord",
    "decode_key_record",
    "fingerprint",
    "key_name",
]

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
    :param ending: the encoded ending, when done; empty before.
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

    Fenced by the holder and not by the record's version, which changes whenever the hold is prolonged.

    :param name: of the record.
    :param value: what it becomes.
    :param keep: seconds for which it is kept.
    :param job, fence: whose hold it completes.
    """

    name: str
    value: bytes
    keep: float
    job: str
    fence: int

    def conflict(self, found: bytes) -> str | None:
        """Why it may not replace this record; None if it may: the key is still held by this very start of the job."""
        claim = decode_key_record(found)
        if (claim.state, claim.job, claim.fence) == ("held", self.job, self.fence):
            return None
        whose = "this job" if claim.job == self.job else f"job {claim.job}"
        return f"the key is {claim.state} by {whose} with fence {claim.fence}; this start has fence {self.fence}"


class Acquired(msgspec.Struct):
    """The key is ours: run, then complete or release.

    :param version: of the record as we wrote it last; changes when the hold is prolonged.
    :param window: seconds for which the record is kept after the end.
    :param held: seconds for which it is kept while it is held; never less than a hold lasts.
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
    """The work was done before: by which job, and its encoded ending."""

    job: str
    outcome: bytes


Acquisition: TypeAlias = Acquired | Busy | Completed

_encode = msgspec.json.Encoder().encode
decode_key_record = msgspec.json.Decoder(KeyRecord).decode


def key_name(task: str, key: str) -> str:
    """The name of the record: hashed, because keys are free text and record names are not."""
    return f"key/{task}/{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


def fingerprint(payload: bytes) -> str:
    """What identifies a payload; the same arguments have the same encoding."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


class IdempotencyKeys:
    """Claim, take, complete and release keys over any store.

    :param window: seconds for which a key is remembered after its job was sent, and again after it was done.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # ── the sender's side ──

    @staticmethod
    def claim(name: str, claim: KeyRecord, keep: float) -> Write:
        """The write that claims a key for a job about to be sent; a Conflict holds the claim that stands."""
        return Write(key=name, value=_encode(claim), expect=ABSENT, keep=keep)

    @staticmethod
    def confirm(name: str, claim: KeyRecord, version: Version, keep: float) -> Write:
        """The write that says: the broker has the job. If it is lost, a duplicate publishes the same id again."""
        confirmed = msgspec.structs.replace(claim, confirmed=True)
        return Write(key=name, value=_encode(confirmed), expect=version, keep=keep)

    @staticmethod
    def reclaim(name: str, claim: KeyRecord, version: Version, keep: float) -> Write:
        """The write that claims a key whose job is gone without a committed outcome."""
        return Write(key=name, value=_encode(claim), expect=version, keep=keep)

    @staticmethod
    def retract(name: str, version: Version) -> Write:
        """The write that takes a claim back: its job was refused."""
        return Write(key=name, value=None, expect=version)

    # ── the worker's side ──

    async def acquire(
        self,
        name: str,
        claim: KeyRecord,
        *,
        hold: float,
        now: float,
        keep: float,
        least_fence: int = 1,
        twin: bool = False,
    ) -> Acquisition:
        """Take the key for a job that is about to start.

        A job that holds the key itself takes it anew at once: the broker's lease says that its former holder is gone.

        :param claim: who asks, with which arguments.
        :param hold: seconds after which a silent holder counts as gone.
        :param now: seconds since the epoch.
        :param least_fence: above all fences that this job had before, should the record be gone meanwhile.
        :param twin: the broker may have this job twice, so that its holder is perhaps alive, and waited for.
        """
        for _ in range(ACQUIRE_TRIES):
            record = await self._store.get(name)
            taken = _look(record, None if twin else claim.job, now)
            if taken is not None:
                return taken
            fence = max(decode_key_record(record.value).fence + 1 if record else 1, least_fence)
            held = msgspec.structs.replace(claim, state="held", confirmed=True, fence=fence, until=now + hold)
            expect = record.version if record else ABSENT
            longest = max(keep, hold)
            taking = Write(key=name, value=_encode(held), expect=expect, keep=longest, reserve=True)
            [answer] = await self._store.put_many([taking])
            if not isinstance(answer, Conflict):
                return Acquired(name, held, answer, keep, longest)
        return Busy(BUSY_RETRY)

    @staticmethod
    def renew(won: Acquired, until: float) -> Write:
        """The write that keeps a running job's hold alive."""
        return Write(
            key=won.name,
            value=_encode(msgspec.structs.replace(won.claim, until=until)),
            expect=won.version,
            keep=won.keep,
            reserve=True,
        )

    @staticmethod
    def complete(won: Acquired, ending: bytes) -> Write:
        """The write that commits the outcome; a Conflict means that the hold was lost and nothing was committed."""
        return Write(key=won.name, value=_done(won.claim, ending), expect=won.version, keep=won.window, reserve=True)

    @staticmethod
    def completion(name: str, claim: KeyRecord, ending: bytes, window: float) -> Completion:
        """The same for the job itself; a store writes it with what it knows of transactions."""
        return Completion(name, _done(claim, ending), window, claim.job, claim.fence)

    @staticmethod
    def release(won: Acquired) -> Write:
        """The write that frees the key for the next attempt of the same job."""
        sent = msgspec.structs.replace(won.claim, state="sent", until=0.0)
        return Write(key=won.name, value=_encode(sent), expect=won.version, keep=won.window, reserve=True)


def _done(claim: KeyRecord, ending: bytes) -> bytes:
    return _encode(msgspec.structs.replace(claim, state="done", outcome=msgspec.Raw(ending)))


def _look(record: Record | None, job: str | None, now: float) -> Busy | Completed | None:
    """Why the key cannot be taken, or None if it can. ``job``: whose hold does not count."""
    if record is None:
        return None
    claim = decode_key_record(record.value)
    if claim.state == "done":
        return Completed(claim.job, bytes(claim.outcome))
    if claim.state == "held" and claim.job != job and claim.until > now:
        return Busy(min(claim.until - now, BUSY_RETRY))
    return None
