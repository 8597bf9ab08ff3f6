"""Deaths: what a job died of, as a word that is the same for all jobs that died of the same.

It follows from the kind of the reason, the type of the last error, and the function in which that was raised. Line
numbers do not count: a deployment would split each group. Where there is no such function, the text counts, without its
numbers, ids and quoted parts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final, Protocol

__all__ = ["death"]

LINE: Final = re.compile(r":\d+(?= in )")  #: of a place
VARIABLE: Final = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\b[0-9a-fA-F-]*\d[0-9a-fA-F-]*\b|/[^\s:,;]+""")
TEXT_COUNTS: Final = 120  #: characters of a text in which two deaths can differ


class HasError(Protocol):
    """The record of an error."""

    @property
    def type(self) -> str:
        """The name of its class."""
        ...

    @property
    def message(self) -> str:
        """Its text."""
        ...

    @property
    def where(self) -> str:
        """File, line and function; empty if they are not known."""
        ...


def death(reason: str, errors: Sequence[HasError]) -> str:
    """Name what a job died of by 8 hex digits; of its errors the last one counts."""
    kind, _, rest = reason.partition(":")
    parts, error = [kind, "", "", ""], errors[-1] if errors else None
    if error is not None:
        parts[1:3] = error.type, LINE.sub("", error.where)
    if error is None or not error.where:
        parts[3] = VARIABLE.sub("#", rest if error is None else error.message)[:TEXT_COUNTS]
    return hashlib.blake2s("\0".join(parts).encode(errors="replace"), digest_size=4).hexdigest()
