"""Marks: which members of a group have ended, and how, as two bits each that may be written any number of times.

    00  not yet     01  succeeded     10  failed     11  skipped

A group is the children of a map, or the steps that one step waits for. Up to 256 members have one record; more have a
record for each 256, its *leaves*, and a *root* with one mark for each leaf that is full. Marks are merged, never
counted down: a mark that is written twice, by two workers or after a crash, changes nothing. That is why the last
member of a group is found once it is there, and not before (the model in ``tests/workflows`` shows what counters do).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "FAILED",
    "LEAF",
    "SKIPPED",
    "SUCCEEDED",
    "Mark",
    "MarkCounts",
    "MarkPlace",
    "is_full",
    "mark",
    "marks_from",
    "merge",
    "place_of",
]

LEAF = 256  #: members whose marks share a record


class Mark(IntEnum):
    """How a member of a group ended; its two bits."""

    SUCCEEDED = 1
    FAILED = 2
    SKIPPED = 3


SUCCEEDED, FAILED, SKIPPED = Mark


class MarkPlace(NamedTuple):
    """Where the mark of a member stands.

    :param leaf: the number of its leaf; None if the group has one record only.
    :param position: its position in that record.
    :param members: how many marks that record has when it is full.
    """

    leaf: int | None
    position: int
    members: int


def place_of(member: int, members: int, *, spread: bool = False) -> MarkPlace:
    """Find the place of a member's mark.

    Members that end at about the same time, in one worker, should share a leaf, so that their marks are one write.

    :param spread: the broker deals jobs to workers one by one, so neighbours end in different workers: members that
        are as many apart as there are leaves share one.
    """
    if members <= LEAF:
        return MarkPlace(None, member, members)
    leaves = -(-members // LEAF)
    if not spread:
        leaf, position = divmod(member, LEAF)
        return MarkPlace(leaf, position, min(LEAF, members - leaf * LEAF))
    position, leaf = divmod(member, leaves)
    return MarkPlace(leaf, position, -(-(members - leaf) // leaves))


def mark(position: int, how: Mark) -> bytes:
    """Make marks in which one member has ended."""
    byte, pair = divmod(position, 4)
    return bytes(byte) + bytes([how << (2 * pair)])


def marks_from(first: int, members: int) -> bytes:
    """Make marks in which all members from the first one on have ended well: places that no member has."""
    bits = sum(SUCCEEDED << (2 * position) for position in range(first, members))
    return bits.to_bytes(-(-members // 4), "little")


def merge(one: bytes, other: bytes) -> bytes:
    """Merge two records of marks: what either has."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    size = len(longer)
    return (int.from_bytes(longer, "little") | int.from_bytes(shorter, "little")).to_bytes(size, "little")


class MarkCounts(NamedTuple):
    """How many members ended in which way."""

    succeeded: int
    failed: int
    skipped: int

    @classmethod
    def of(cls, marks: bytes) -> MarkCounts:
        """Count the members of one record of marks."""
        bits = int.from_bytes(marks, "little")
        low = int.from_bytes(b"\x55" * len(marks), "little")
        first, second = bits & low, bits >> 1 & low
        both = (first & second).bit_count()
        return cls(first.bit_count() - both, second.bit_count() - both, both)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.succeeded + self.failed + self.skipped


def is_full(marks: bytes, members: int) -> bool:
    """Tell whether all members of a record have ended."""
    return MarkCounts.of(marks).ended >= members
