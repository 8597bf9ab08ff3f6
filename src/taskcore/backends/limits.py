"""What every adapter says of a job that is too large for its broker."""

from __future__ import annotations

from taskcore.backend import Refused

__all__ = ["too_large"]


def too_large(size: int, limit: int, setting: str | None = None) -> Refused:
    """Make the answer about a job that the broker never takes, however often it is sent.

    :param setting: the limit's name on the server, where a higher one helps.
    """
    return Refused(
        f"it has {size:,} bytes, and this broker takes {limit:,}" + (f" ({setting})" if setting else ""),
        f"send a reference to data that is stored elsewhere; a payload_limit below {limit:,} tells before the send"
        + (f"; or raise {setting} on the server" if setting else ""),
    )
