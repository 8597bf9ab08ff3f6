"""Keeping leases while the event loop stands still: a feature room, which may be deleted without touching the core."""

from taskcore.keeping.thread import KeeperThread

__all__ = ["KeeperThread"]
