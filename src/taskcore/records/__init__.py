"""Records that the core keeps in a store: outcomes, idempotency keys, start markers, cancellation requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Self

from taskcore.records.cancels import Cancels
from taskcore.records.keys import IdempotencyKeys
from taskcore.records.markers import StartMarkers
from taskcore.records.outcomes import Outcomes
from taskcore.store import Record, Store, Write

__all__ = ["Records"]


class Records(NamedTuple):
    """All kinds of records over one store.

    :ivar note: writes what tells callers of parked jobs.
    :ivar read_many: reads records of any kind together, by their names.
    """

    outcomes: Outcomes
    keys: IdempotencyKeys
    markers: StartMarkers
    cancels: Cancels
    note: Callable[[Sequence[Write]], Awaitable[object]]
    read_many: Callable[[Sequence[str]], Awaitable[Sequence[Record | None]]]

    @classmethod
    def over(cls, store: Store) -> Self:
        """Make the records of a store."""
        return cls(
            Outcomes(store),
            IdempotencyKeys(store),
            StartMarkers(store),
            Cancels(store),
            note=store.put_many,
            read_many=store.get_many,
        )
