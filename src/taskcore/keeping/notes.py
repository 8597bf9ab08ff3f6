"""Notes: what a worker has in hand, in memory that its keeper process can read while the worker stands still.

The event loop writes, in one of two halves: what it receives behind what is there, and a few times per second all that
is in hand into the other half. The number of valid bytes is written last, so the notes can be read at any moment: code
that keeps the GIL may begin between any two steps.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import IO

import msgspec

from taskcore.keeping.program import DATA, HALF_BYTES, MAX_LIFELINES, SETTINGS, SIZE, UNSENT, Layout

__all__ = ["KeyNote", "Note", "Notes", "read_notes"]

DOUBLES, NUMBER, LENGTH = struct.Struct("<3d"), struct.Struct("<Q"), struct.Struct("<I")
NOTED, VALID_HALF, SIZES = 24, 40, (48, 56)


class KeyNote(msgspec.Struct, array_like=True, frozen=True):
    """A key that is held, as :class:`taskcore.records.keys.Acquired`."""

    name: str
    claim: bytes
    version: int | str
    window: float
    keep: float


class Note(msgspec.Struct, array_like=True, frozen=True):
    """A part of what is in hand.

    :param tickets: of its leases.
    :param keys: that its jobs hold.
    :param running: some of the jobs that run, for people.
    :param envelopes: of some that were just received, and may run by now.
    """

    tickets: list[bytes] = []
    keys: list[KeyNote] = []
    running: list[str] = []
    envelopes: list[bytes] = []


_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Note).decode


class Notes:
    """The worker's side: it writes."""

    def __init__(self, settings: bytes) -> None:
        with _shared_file() as file:
            os.ftruncate(file.fileno(), SIZE)
            self.descriptor = os.dup(file.fileno())
        self._memory = mmap.mmap(self.descriptor, SIZE)
        self._memory[SETTINGS : SETTINGS + len(settings)] = settings
        self.unsent = memoryview(self._memory)[UNSENT : UNSENT + MAX_LIFELINES]
        self._half = self._end = 0

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last connection that has a byte of it."""
        os.close(self.descriptor)

    @property
    def kept(self) -> float:
        """When the keeper process last extended what is in hand; 0 if it never did."""
        return Layout.read(self._memory).kept

    def beat(self, now: float, since: float, ends: float) -> None:
        """Say that this worker's threads run; see :class:`taskcore.keeping.program.Layout`."""
        DOUBLES.pack_into(self._memory, 0, now, since, ends)

    def add(self, note: Note) -> bool:
        """Add to what is in hand; False if there is no room, until all of it is written anew."""
        data = _encode(note)
        start, end = self._end, self._end + LENGTH.size + len(data)
        if end > HALF_BYTES:
            return False
        at = DATA + self._half * HALF_BYTES
        self._memory[at + start : at + end] = LENGTH.pack(len(data)) + data
        self._end = end
        NUMBER.pack_into(self._memory, SIZES[self._half], end)
        struct.pack_into("<d", self._memory, NOTED, time.monotonic())
        return True

    def replace(self, note: Note) -> bool:
        """Write all that is in hand."""
        self._half, self._end = 1 - self._half, 0
        fits = self.add(note)
        NUMBER.pack_into(self._memory, VALID_HALF, self._half)
        return fits


def read_notes(data: bytes) -> Note:
    """Read all that is in hand, in the keeper process."""
    whole, done = Note(), 0
    while done < len(data):
        [length] = LENGTH.unpack_from(data, done)
        done += LENGTH.size
        part = _decode(data[done : done + length])
        done += length
        for name in Note.__struct_fields__:
            getattr(whole, name).extend(getattr(part, name))
    return whole


def _shared_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("taskcore-notes"), "r+b")
    return tempfile.TemporaryFile()
