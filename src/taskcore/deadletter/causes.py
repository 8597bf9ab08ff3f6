"""Causes: dead letters that died of the same, as one group.

A cause is named by a fingerprint of what was recorded at the burial: the task, the kind of the reason, the type of the
last error, and the function in which it was raised. Line numbers do not count: a deployment would split each group.
Where there is no such function, the text counts, without its numbers, ids and quoted parts.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from taskcore.envelope import ErrorRecord
from taskcore.toolkit.values import PublicValue

__all__ = ["Cause", "fingerprint", "why"]

LINE: Final = re.compile(r":\d+(?= in )")  #: of a place
VARIABLE: Final = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\b[0-9a-fA-F-]*\d[0-9a-fA-F-]*\b|/[^\s:,;]+""")
TEXT_COUNTS: Final = 120  #: characters of a text in which two causes can differ
TEXT_SHOWN: Final = 200


class Cause(PublicValue, frozen=True, kw_only=True):
    """Dead letters of one queue that died of the same.

    :param fingerprint: its name: 8 hex digits.
    :param why: the last error of its newest letter, in one line; its reason, if there was no error.
    :param letters: how many there are.
    :param first, last: when the oldest and the newest of them were buried, in seconds since the epoch.
    :param replays: how often the most often replayed of them had been replayed before it died again.
    :param newest: the id of its newest letter.
    """

    fingerprint: str
    queue: str
    task: str
    reason: str
    why: str
    letters: int
    first: float
    last: float
    replays: int
    newest: str


def fingerprint(task: str, reason: str, error: ErrorRecord | None) -> str:
    """Name the cause of a death by 8 hex digits."""
    kind, _, rest = reason.partition(":")
    parts = [task, kind, "", "", ""]
    if error is not None:
        parts[2:4] = error.type, LINE.sub("", error.where)
    if error is None or not error.where:
        parts[4] = VARIABLE.sub("#", rest if error is None else error.message)[:TEXT_COUNTS]
    return hashlib.blake2s("\0".join(parts).encode(errors="replace"), digest_size=4).hexdigest()


def why(reason: str, error: ErrorRecord | None) -> str:
    """Tell a cause in one line."""
    text = reason if error is None else f"{error.type}: {error.message}"
    line = " ".join(text.split())
    return line if len(line) <= TEXT_SHOWN else f"{line[: TEXT_SHOWN - 1]}…"
