"""The stream of a store, and records as messages in it.

    <prefix>.r.<key>        stream <prefix>-store; the last message of a subject is the record

    Tc-Ends     when its time is over: milliseconds since the epoch, by the server's clock; 0: never
    Tc-Gone     the record was deleted; this mark goes a moment after the record itself

A version is the number of the write in the stream, which never comes again, and the end: it says whether the record's
time is over, also where the server still has the record.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

from taskcore.connections.nats import Message, NatsLink, Reply, jetstream, number_of, plain_token
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record, Version

__all__ = [
    "FoundRecord", "ends_at", "key_token", "make_stream", "read_answer", "read_stored", "tombstone", "version_of",
    "wanted_of", "write_message",
]  # fmt: skip

TTL_LEVEL: Final = 1  #: the level of the API from which servers remove expired records
MAX_AGE: Final = 30 * 86_400.0  #: seconds after which every record goes, where they do not
CHECKED: Final = (
    "subjects",
    "retention",
    "discard",
    "max_msgs_per_subject",
    "max_msgs",
    "max_bytes",
    "num_replicas",
    "storage",
)
KEPT_VERSIONS: Final = 8  #: messages of a subject, at most: the record, and versions that the store has not deleted yet
_PLAIN = re.compile(r"[A-Za-z0-9_/-]{1,200}")


async def make_stream(link: NatsLink, name: str, subjects: str) -> dict[str, Any]:
    """Return the settings of the stream, created if it does not exist.

    :raises BrokerUnavailable: it cannot be created, or is there with other settings.
    """
    native = link.level >= TTL_LEVEL
    wanted = jetstream.stream_config(
        link,
        name,
        [subjects],
        max_msgs_per_subject=KEPT_VERSIONS,
        max_bytes=-1,
        max_age=0 if native else MAX_AGE,
        allow_direct=True,
        duplicate_window=0.1,  # no write of ours has an id; the least that servers take
    )
    found = await jetstream.ensure_stream(link, wanted | {"allow_msg_ttl": True} if native else wanted)
    jetstream.check_settings(link, name, wanted, found, CHECKED)
    return found


# ── records ──


class FoundRecord(msgspec.Struct, frozen=True):
    """The message under a key: a record, or the mark of a deleted one."""

    number: int
    ends: int
    gone: bool
    value: bytes

    def alive(self, now: float) -> bool:
        """Tell whether it is a record whose time is not over."""
        return not self.gone and (not self.ends or now * 1000 < self.ends)

    @property
    def record(self) -> Record:
        """As the seam knows it."""
        return Record(self.value, version_of(self.number, self.ends))


def key_token(key: str) -> str:
    """Return a key as one token of a subject: itself, or its hash if it cannot be one."""
    return plain_token(key, _PLAIN)


def version_of(number: int, ends: int) -> str:
    """Return the version of a write."""
    return f"{number}.{ends}"


def wanted_of(version: Version) -> tuple[int, int]:
    """Return the number and the end in a version; -1 if it is none of ours."""
    number, _, ends = str(version).partition(".")
    return (int(number), int(ends)) if number.isdigit() and ends.isdigit() else (-1, 0)


def ends_at(now: float, keep: float | None) -> int:
    """Return the moment at which a record that is written now ends."""
    return 0 if keep is None else max(math.ceil((now + min(keep, 1e10)) * 1000), 1)


def write_message(
    subject: bytes, value: bytes, *, ends: int, keep: float | None, expected: int | None, native: bool
) -> Message:
    """Return one write.

    :param expected: the number of the write that has to be the last; 0: none, None: any.
    :param native: whether the server removes expired records.
    """
    headers = b"Tc-Ends: %d\r\n" % ends
    if expected is not None:
        headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    return Message(subject, value, headers + _time_to_live(keep, native=native))


def tombstone(subject: bytes, *, expected: int, keep: float | None, native: bool) -> Message:
    """Return the mark of a deleted record.

    :param keep: seconds that are left to the record; None: no end. Until then it may be there below the mark.
    """
    headers = b"Tc-Gone: 1\r\nNats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    return Message(subject, b"", headers + _time_to_live(keep, native=native))


def _time_to_live(keep: float | None, *, native: bool) -> bytes:
    return b"Nats-TTL: %ds\r\n" % (math.ceil(min(max(keep, 0.0), 1e9)) + 1) if native and keep is not None else b""


def read_answer(answer: Reply) -> FoundRecord | None:
    """Read the answer to a direct get.

    :raises BrokerUnavailable: the server cannot say at the moment.
    """
    if answer.status == b"404":
        return None
    if answer.status or not answer.headers:
        text = answer.headers[:60].decode("ascii", "replace")
        raise BrokerUnavailable("the store cannot say what is there", facts=[text])
    server_part = answer.headers[answer.headers.rfind(b"Nats-Stream:") - 2 :]  # behind what the writer has put there
    return _found(answer.headers, number_of(server_part, b"Nats-Sequence"), answer.body)


def read_stored(answer: dict[str, Any]) -> FoundRecord | None:
    """Read the answer of the stream's leader."""
    stored = jetstream.stored_in(answer)
    return _found(stored.headers, stored.number, stored.body) if stored is not None else None


def _found(headers: bytes, number: int, value: bytes) -> FoundRecord:
    return FoundRecord(number, number_of(headers, b"Tc-Ends"), b"\r\nTc-Gone:" in headers, value)
