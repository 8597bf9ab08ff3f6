"""What every adapter says of a job that is too large for its broker, and of one for which it has no room now."""

from __future__ import annotations

from collections.abc import Sequence

from taskcore.backend import Delivery, Refused
from taskcore.errors import BrokerUnavailable

__all__ = ["NoRoom", "too_large"]


class NoRoom(BrokerUnavailable):
    """The broker has no room for what some verdicts leave behind, and says so; those jobs are held as before.

    :param held: the deliveries that are not settled; settling the others of the batch again is safe.
    """

    def __init__(self, what: str, *, held: Sequence[Delivery] = (), fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.held = held


def too_large(size: int, limit: int, setting: str | None = None) -> Refused:
    """Make the answer about a job that the broker never takes, however often it is sent.

    :param setting: the limit's name on the server, where a higher one helps.
    """
    return Refused(
        f"it has {size:,} bytes, and this broker takes {limit:,}" + (f" ({setting})" if setting else ""),
        f"send a reference to data that is stored elsewhere; a payload_limit below {limit:,} tells before the send"
        + (f"; or raise {setting} on the server" if setting else ""),
    )
