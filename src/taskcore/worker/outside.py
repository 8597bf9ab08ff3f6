"""The door to the feature room that keeps leases while the event loop stands still."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from taskcore.components import Components
from taskcore.services import Service
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.options import WorkerOptions

__all__ = ["outside_keeper"]

ROOM = "taskcore.keeping"


def outside_keeper(keeper: LeaseKeeper, components: Components, options: WorkerOptions) -> list[Service]:
    """Make the service that keeps what the keeper cannot; none if the room is not there."""
    if find_spec(ROOM) is None:
        return []
    room = import_module(ROOM)
    made: Service = room.KeeperThread(
        keeper, components.backend, components.store, lease=options.lease, max_block=options.max_block
    )
    return [made]
