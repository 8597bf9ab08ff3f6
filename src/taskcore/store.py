"""Seam 2: small keyed records with compare-and-set and a time to live.

Everything portable that is not a queue (idempotency keys, outcomes, start markers, cancellations) is core code over
these six verbs: get, get_many, put, put_many, delete, watch. A store adapter is therefore small, and an application may
keep its queue and its records in different places.

Rules for every adapter:
  * A record is gone when its time is over: no verb returns an expired record.
  * Versions never repeat for a key, not even after the record was deleted or has expired.
  * No exception of a client library leaves it: only BrokerUnavailable; StoreRefused for a write that the server never
    takes, whatever its state; and UnreadableRecord for a value that no store of ours wrote. The other writes of a batch
    may be done when one of them raises, and may be repeated: each expects what it expected.
  * Every record has an end: ``keep`` is seconds, or None for records that their owner deletes (C23).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Final, Literal, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import msgspec

from taskcore.errors import UnreadableRecord

__all__ = [
    "ABSENT",
    "ANY",
    "Conflict",
    "Expect",
    "LimitsValues",
    "Record",
    "Store",
    "Version",
    "Write",
    "is_expected",
    "largest_value",
    "record_decoder",
    "unreadable_record",
]

T = TypeVar("T")

Version: TypeAlias = int | str  #: what a store gives a record at each write; only comparing for equality means anything


class Expectation(Enum):
    """What a write may expect besides a version."""

    ABSENT = "absent"
    ANY = "any"


ABSENT: Final = Expectation.ABSENT  #: write only if there is no record
ANY: Final = Expectation.ANY  #: write whatever is there

Expect: TypeAlias = Version | Literal[Expectation.ABSENT, Expectation.ANY]


class Record(msgspec.Struct, frozen=True, gc=False):
    """A value and the version it has."""

    value: bytes
    version: Version


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """The write was not done because something else than expected was there: this, or None for nothing."""

    current: Record | None


class Write(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One write of a batch. ``value`` None deletes. ``keep`` in seconds, None for ever.

    ``reserve``: a job cannot end without it, and a job that ends makes room. A store that is full may do it all the
    same, within a bound of its own.
    """

    key: str
    value: bytes | None
    expect: Expect = ANY
    keep: float | None = None
    reserve: bool = False


def is_expected(current: Record | None, expect: Expect) -> bool:
    """Tell whether a write that expects this may be done over this record."""
    if expect is ANY:
        return True
    if expect is ABSENT:
        return current is None
    return current is not None and current.version == expect


class Store(Protocol):
    """Keyed records. Opened with ``async with``. All verbs raise BrokerUnavailable if it cannot be reached."""

    async def __aenter__(self) -> Self:
        """Connect.

        :raises BrokerUnavailable: it cannot be reached.
        """
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        ...

    async def get(self, key: str) -> Record | None:
        """Get the record; None if there is none or its time is over."""
        ...

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """Fetch some records in as few round trips as possible, in order; None for each that is not there."""
        ...

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write one record if what is there is as expected; its new version, or the Conflict."""
        ...

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Forget one record if it is as expected; True if it was there and is gone."""
        ...

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """Make all writes in one round trip, one answer for each, in order; not a transaction.

        A delete answers with the version it removed, or a Conflict; with ``expect=ANY`` a missing record is no conflict
        (the answer is an empty version, ``""``).
        """
        ...

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Yield the record if it exists, then each new one as it is written: pushed, not polled, where the server can.

        Between entering and the first item nothing is missed. A reader that is slow may miss records in between, never
        the latest one.
        """
        ...


@runtime_checkable
class LimitsValues(Protocol):
    """A store whose server refuses values above a size."""

    @property
    def max_value(self) -> int | None:
        """The largest value in bytes, once the store is open; None if there is no limit."""
        ...


def largest_value(store: object) -> int | None:
    """Get the largest value that an open store takes, in bytes; None if there is no limit."""
    return store.max_value if isinstance(store, LimitsValues) else None


SHOWN_BYTES = 100  #: of a record that cannot be read


def record_decoder(kind: type[T], what: str) -> Callable[[bytes], T]:
    """Make the decoder of a kind of record; it raises UnreadableRecord for bytes that are no such record (TC408).

    :param what: the name of such a record in the error.
    """
    decode = msgspec.json.Decoder(kind).decode

    def decode_record(data: bytes) -> T:
        try:
            return decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise unreadable_record(what, data, error) from error

    return decode_record


def unreadable_record(what: str, data: bytes, error: object) -> UnreadableRecord:
    """Make the error about a record that cannot be decoded.

    :param error: why not.
    """
    return UnreadableRecord(
        f"{what} cannot be read: {error}",
        facts=[f"its record begins with {data[:SHOWN_BYTES]!r}"],
        fix="upgrade, if a newer version wrote it; else find the program that writes to this store, delete the record",
    )
