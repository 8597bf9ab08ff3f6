"""Records in Redis: their keys, bytes and versions.

    tcr:{hk}:job/0190…          "tc" is the URL's prefix; the braces hold the record's group
    "Zm9vYmFyYmF.1f value"      the version, a space, the value; Redis itself ends it after its time (PX)

Groups exist because of Cluster: a script sees only keys of one slot, and a batch of records should need few scripts.
All records are spread over a few slots, which are chosen so that every node has its share of them.

A version is a random token of this store and a count. It never repeats, whatever was deleted, has expired, or was lost
in a failover; and it needs no counter on the server that could be lost as well.
"""

from __future__ import annotations

import re
import secrets
from binascii import crc32, crc_hqx
from collections.abc import Iterator
from itertools import count
from math import ceil
from string import ascii_lowercase
from typing import Final

from taskcore.errors import UnreadableRecord
from taskcore.store import Record

__all__ = ["GROUPS", "RecordNames", "decode", "foreign", "group_of", "milliseconds", "version_in", "versions"]

SLOTS = 16_384  #: of a Redis Cluster, by its specification
GROUP_COUNT = 16  #: groups, so the most nodes that can have a share
VERSION = re.compile(rb"([A-Za-z0-9_-]{11}\.[0-9a-f]{1,16}) ")
SHOWN_BYTES = 100  #: of a string that is no record
MAX_KEEP_MILLISECONDS = 10**15  #: milliseconds; Redis cannot count much further


def _choose_groups() -> tuple[str, ...]:
    """Choose one tag in each sixteenth of the slots: the same in every program, for ever."""
    tags = (a + b for a in ascii_lowercase for b in ascii_lowercase)
    chosen: dict[int, str] = {}
    for tag in tags:
        chosen.setdefault(crc_hqx(tag.encode(), 0) % SLOTS * GROUP_COUNT // SLOTS, tag)
    return tuple(chosen[share] for share in range(GROUP_COUNT))


GROUPS: Final = _choose_groups()


def group_of(key: str) -> int:
    """Return the number of the group to which a record belongs."""
    return crc32(key.encode()) % GROUP_COUNT


class RecordNames:
    """The names of records on the server.

    :param prefix: from the URL.
    """

    def __init__(self, prefix: str) -> None:
        self._heads = [f"{prefix}r:{{{tag}}}:" for tag in GROUPS]

    def __call__(self, key: str) -> str:
        """Return the name of a record, which is also the channel on which its writes are announced."""
        return self._heads[group_of(key)] + key

    @staticmethod
    def key_of(name: str) -> str:
        """Return the key of the record with this name."""
        return name.partition("}:")[2]


def versions() -> Iterator[str]:
    """Return versions that no other store gives."""
    token = secrets.token_urlsafe(8)
    return (f"{token}.{number:x}" for number in count(1))


def version_in(data: bytes) -> str | None:
    """Return the version with which a record begins; None if it is not one of ours."""
    found = VERSION.match(data)
    return found[1].decode() if found else None


def decode(data: bytes, name: str) -> Record:
    """Read a record from its bytes.

    :raises UnreadableRecord: they are not a record (TC408).
    """
    version = version_in(data)
    if version is None:
        raise foreign(name, f"it is a string without a version: {data[:SHOWN_BYTES]!r}")
    return Record(data[len(version) + 1 :], version)


def milliseconds(keep: float) -> int:
    """Return a time to live as Redis takes it: never shorter than asked, and never 0."""
    return (
        min(max(ceil(keep * 1000), 1), MAX_KEEP_MILLISECONDS) if keep < MAX_KEEP_MILLISECONDS else MAX_KEEP_MILLISECONDS
    )


def foreign(name: str, says: str) -> UnreadableRecord:
    """Return the error for a key of ours that holds something else."""
    return UnreadableRecord(
        f"the key {name!r} in Redis holds something that is not a record of ours",
        facts=[says],
        fix=f"look at it (redis-cli DUMP), then DEL {name!r}; or choose another prefix in the URL: ?prefix=…",
    )
