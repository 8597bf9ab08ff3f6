"""What no server takes, refused before it is sent: in the same words by every store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord
from taskcore.store import Write

__all__ = ["NAME_LIMIT", "Failure", "check_names", "check_writes", "first_failure", "refusal"]

NAME_LIMIT: Final = 2_500  #: bytes of a record's name; the strictest server has an index with room for 2,704
SHOWN_CHARACTERS: Final = 80  #: characters of a name in an error

Failure = BrokerUnavailable | StoreRefused | UnreadableRecord  #: the answer about one record of a batch


def check_names(names: Iterable[str]) -> None:
    """Check the names of records.

    :raises StoreRefused: no record can have such a name (TC205).
    """
    for name in names:
        if not name.isascii():
            try:
                size = len(name.encode())
            except UnicodeEncodeError as error:
                raise refusal(name, f"its name is not Unicode: {error.reason}") from None
        else:
            size = len(name)
        if size > NAME_LIMIT:
            raise refusal(name, f"its name has {size:,} bytes, the limit is {NAME_LIMIT:,}")


def check_writes(writes: Sequence[Write], limit: int | None) -> None:
    """Check the names and the values of writes.

    :param limit: bytes of the largest value that the server takes; None: it has no limit.
    :raises StoreRefused: the server would refuse one of them for ever (TC205).
    """
    check_names(write.key for write in writes)
    if limit is None:
        return
    for write in writes:
        if write.value is not None and len(write.value) > limit:
            raise refusal(write.key, f"its value has {len(write.value):,} bytes, this server takes {limit:,}")


def refusal(name: str, why: str, *, fix: str | None = None) -> StoreRefused:
    """Make the error about a record that the store never takes."""
    shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return StoreRefused(
        f"the store cannot hold the record {shown!r}: {why}",
        fix=fix or "make it smaller: return, or pass as a key, a name of the data instead of the data itself",
    )


def first_failure(answers: Iterable[object]) -> Failure | None:
    """Find the error to raise for a batch; an outage comes first, because after it the batch is repeated."""
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    return next((one for one in failures if isinstance(one, BrokerUnavailable)), failures[0] if failures else None)
