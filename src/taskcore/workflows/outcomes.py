"""How the children of a map ended, as a task gets it that takes ``pages.outcomes()``.

@app.task
async def total(counts: list[ChildOutcome[int]]) -> int:
    return sum(one.value for one in counts if isinstance(one, ChildValue))
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from taskcore.results import StoredOutcome

__all__ = ["ChildFailure", "ChildOutcome", "ChildValue", "child_outcome"]

R = TypeVar("R")


class ChildValue(msgspec.Struct, Generic[R], frozen=True, tag="value"):
    """The child returned this value."""

    value: R


class ChildFailure(msgspec.Struct, frozen=True, tag="failure", omit_defaults=True):
    """The child has no value.

    :param state: ``"dead"``, ``"expired"``, ``"cancelled"``, or ``"skipped"``.
    :param reason: why it is dead; its last error is ``error``, as ``"ValueError: …"``.
    """

    state: Literal["dead", "expired", "cancelled", "skipped"]
    reason: str = ""
    error: str = ""


ChildOutcome: TypeAlias = ChildValue[R] | ChildFailure


def child_outcome(stored: StoredOutcome) -> bytes:
    """Encode the outcome of a child for the list of outcomes."""
    if stored.state == "succeeded":
        return b'{"type":"value","value":' + (bytes(stored.result) or b"null") + b"}"
    state: Any = "skipped" if stored.state == "cancelled" and stored.reason else stored.state
    error = "" if stored.record is None else f"{stored.record.type}: {stored.record.message}"
    return msgspec.json.encode(ChildFailure(state, stored.reason, error))
