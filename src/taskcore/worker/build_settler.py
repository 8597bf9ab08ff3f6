"""The half of a worker that settles jobs, built from its parts; ``build_performer.py`` has the half that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from taskcore.components import Components
from taskcore.middleware import around_commit
from taskcore.records import Records
from taskcore.worker.execution import Execution
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.outages import Outage
from taskcore.worker.settle import Settler

__all__ = ["build_settler"]


def build_settler(
    components: Components,
    records: Records | None,
    *,
    forget: Callable[[Sequence[Execution]], None],
    keeper: LeaseKeeper,
    outage: Outage,
) -> Settler:
    """Build a settler, with middleware around its commits."""
    events = components.events
    settler = Settler(
        import_module("taskcore.joint_ends").record_settler(components, records) if records is not None else None,
        events,
        forget=forget,
        lease=keeper.lease,
        holds=keeper.holds,
        note_lost=keeper.note_lost,
        outage=outage,
    )
    settler.commit_with = around_commit(components.middleware, settler.commit)
    return settler
