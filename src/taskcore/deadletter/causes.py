"""Causes: dead letters that died of the same, as one group.

A cause is named by a fingerprint: the task, and what the worker noted of the death when it buried the job, see
:mod:`taskcore.toolkit.deaths`.
"""

from __future__ import annotations

import hashlib
from typing import Final

from taskcore.envelope import ErrorRecord
from taskcore.toolkit.deaths import death
from taskcore.toolkit.values import PublicValue

__all__ = ["Cause", "fingerprint", "why"]

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


def fingerprint(task: str, reason: str, error: ErrorRecord | None, *, noted: str = "") -> str:
    """Name the cause of a death by 8 hex digits.

    :param error: the last error; None if there was none.
    :param noted: what the worker noted at the burial; empty for a letter that has no such note.
    """
    died_of = noted or death(reason, () if error is None else (error,))
    return hashlib.blake2s(f"{task}\0{died_of}".encode(errors="replace"), digest_size=4).hexdigest()


def why(reason: str, error: ErrorRecord | None) -> str:
    """Tell a cause in one line."""
    text = reason if error is None else f"{error.type}: {error.message}"
    line = " ".join(text.split())
    return line if len(line) <= TEXT_SHOWN else f"{line[: TEXT_SHOWN - 1]}…"
