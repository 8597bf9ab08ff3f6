"""Stream entries and jobs: what an entry holds, and what a verdict tells the script."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, assert_never

from taskcore.backend import Delivery, Letter
from taskcore.connections.redis.large_replies import UNSENT, UNSENT_FIX
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict

__all__ = ["Receipt", "delivery_of", "effect_of", "letter_number", "letter_of", "split_letter_id"]

PLAIN: Final = [b"id", b"envelope"]  #: the names in an entry of ours
WITH_TRAIL: Final = [*PLAIN, b"trail"]
ENTRY: Final = re.compile(r"\d+-\d+")


class Receipt(NamedTuple):
    """The proof of a lease.

    :param lease: its name: the entry and the token of the call that handed it out.
    :param id: of the job; empty if the entry is not a job of ours.
    """

    lease: bytes
    entry: bytes
    id: bytes


def delivery_of(queue: str, entry: bytes, fields: list[bytes], redeliveries: int, suffix: bytes) -> Delivery:
    """Make a delivery of an entry; of one that is not ours, all bytes are the envelope (C20).

    :param suffix: a space and the token of the call that handed it out.
    """
    lease = entry + suffix
    if fields[::2] == PLAIN:
        return Delivery(queue, fields[3], b"", redeliveries, Receipt(lease, entry, fields[1]))
    if fields[::2] == WITH_TRAIL:
        return Delivery(queue, fields[3], fields[5], redeliveries, Receipt(lease, entry, fields[1]))
    return Delivery(queue, b" ".join(fields), b"", redeliveries, Receipt(lease, entry, b""))


def effect_of(verdict: Verdict) -> tuple[bytes, int, bytes, bytes]:
    """Return kind, milliseconds, trail and reason: the verdict as the script takes it."""
    match verdict:
        case Reschedule(after=after, trail=trail):
            return b"retry", math.ceil(after * 1000), trail, b""
        case Release():
            return b"release", 0, b"", b""
        case Bury(reason=reason, trail=trail):
            return b"bury", 0, trail, reason.encode()
        case Ack():
            return b"ack", 0, b"", b""
        case _:
            assert_never(verdict)


def letter_of(queue: str, entry: bytes, fields: Sequence[Any], size: int | None = None) -> Letter:
    """Make a dead letter of an entry.

    :param size: bytes of one whose beginning alone could be read.
    """
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    reason = found.get(b"reason", b"").decode(errors="replace")
    if size is not None:
        reason += f"; only its beginning could be read: it has {size:,} bytes, {UNSENT}; {UNSENT_FIX}"
    return Letter(
        id=f"{queue}:{entry.decode()}",
        queue=queue,
        envelope=found.get(b"envelope", b" ".join(fields)),
        trail=found.get(b"trail", b""),
        reason=reason,
        when=int(entry.partition(b"-")[0]) / 1000,
    )


def split_letter_id(letter_id: str | None) -> tuple[str, str] | None:
    """Return queue and entry of a letter's id; None if it cannot be one of ours."""
    queue, colon, entry = (letter_id or "").rpartition(":")
    return (queue, entry) if colon and ENTRY.fullmatch(entry) else None


def letter_number(letter_id: str) -> tuple[int, ...]:
    """Return the entry in a letter's id as numbers, by which letters are in order."""
    place = split_letter_id(letter_id)
    return tuple(map(int, place[1].split("-"))) if place is not None else ()
