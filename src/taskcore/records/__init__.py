"""Records that the core keeps in a store: outcomes, idempotency keys, start markers, cancellation requests."""

from __future__ import annotations

from typing import NamedTuple, Self

from taskcore.records.cancels import Cancels
from taskcore.records.keys import IdempotencyKeys
from taskcore.records.markers import StartMarkers
from taskcore.records.outcomes import Outcomes
from taskcore.store import Store

__all__ = ["Records"]


class Records(NamedTuple):
    """All kinds of records over one store."""

    outcomes: Outcomes
    keys: IdempotencyKeys
    markers: StartMarkers
    cancels: Cancels

    @classmethod
    def over(cls, store: Store) -> Self:
        """Make the records of a store."""
        return cls(Outcomes(store), IdempotencyKeys(store), StartMarkers(store), Cancels(store))
