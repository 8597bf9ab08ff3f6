"""What a credentials file says, in the one form in which nats-py reads it safely.

Its own reader looks for the JWT for ever, and the whole program stands still, if the file has none; and it takes a
carriage return for a part of the seed.
"""

from __future__ import annotations

import re
from pathlib import Path

from nats.aio.client import RawCredentials
from nats.errors import Error as NatsError

__all__ = ["read_credentials"]

PARTS = ("NATS USER JWT", "USER NKEY SEED")


def read_credentials(path: str) -> RawCredentials:
    """The JWT and the seed in this file. It is read for each connection, because credentials are replaced.

    :raises OSError: it cannot be read.
    :raises NatsError: one of them is not there; the text has nothing of what is there.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return RawCredentials("".join(f"-----BEGIN {part}-----\n{_part(text, part, path)}\n" for part in PARTS))


def _part(text: str, part: str, path: str) -> str:
    found = re.search(rf"-BEGIN {part}-+\s+([A-Za-z0-9]\S*)", text)
    if found is None:
        raise NatsError(f"creds: {path!r} is no credentials file, it has no {part}")
    return found[1]
