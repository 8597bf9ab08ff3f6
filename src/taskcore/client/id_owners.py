"""Owners of ids: which task an id belongs to that a caller has chosen, from before its job is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord, WrongTask
from taskcore.records.names import owner_name
from taskcore.records.outcomes import Outcomes
from taskcore.results import wrong_task
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.task import Call

__all__ = ["IdOwners"]


class IdOwners:
    """Claims ids for tasks, over any store.

    :param timeout: seconds after which a store without an answer is asked no more: the broker is asked all the same.
    """

    def __init__(self, store: Store, *, timeout: float) -> None:
        self._store = store
        self._outcomes = Outcomes(store)
        self._timeout = timeout

    async def claim(self, calls: Sequence[Call[Any]]) -> None:
        """Claim the ids that callers have chosen, for as long as a key would be remembered.

        :raises WrongTask: an id belongs to another task (TC409); nothing was sent.
        """
        owned = [call for call in calls if call.options.id is not None]
        writes = [
            Write(
                key=owner_name(str(call.options.id)),
                value=call.task.name.encode(),
                expect=ABSENT,
                keep=call.task.options.key_window + call.options.delay,
            )
            for call in owned
        ]
        try:
            with anyio.move_on_after(self._timeout):
                for call, answer in zip(owned, await self._store.put_many(writes), strict=True):
                    if isinstance(answer, Conflict) and answer.current is not None:
                        _refuse_other_task(call, answer.current.value)
        except (BrokerUnavailable, StoreRefused, UnreadableRecord):
            return  # the outcome of the first job will tell

    async def find_other_task(self, call: Call[Any]) -> WrongTask | None:
        """Look whether the job that has the id of a call has ended as one of another task."""
        if call.options.id is None:
            return None
        try:
            outcome = await self._outcomes.find(call.options.id)
        except BrokerUnavailable:
            return None  # who asks for the result will learn it
        return None if outcome is None else wrong_task(call.options.id, call.task.name, outcome)


def _refuse_other_task(call: Call[Any], owner: bytes) -> None:
    if owner != call.task.name.encode():
        raise WrongTask(
            f"the id {call.options.id} belongs to a job of {owner.decode(errors='replace')}, not of {call.task.name}; "
            "nothing was sent",
            fix="a call of another task needs another id",
            job_id=str(call.options.id),
        )
