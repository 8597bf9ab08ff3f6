"""Keeping what a worker holds: keys, leases while the event loop stands still, and jobs that wait while leases end.

A worker loads this room by name, and does not start without it.
"""

from taskcore.keeping.keys import KeyKeeper
from taskcore.keeping.thread import KeeperThread
from taskcore.keeping.waiting import WaitingJobs

__all__ = ["KeeperThread", "KeyKeeper", "WaitingJobs"]
