"""Blocking calls, for programs that have no event loop.

``app.sync`` and ``task.sync`` import this room when they are used, and nothing else in the core does. ``portal.py`` is
a thread with a loop of its own; ``app.py`` and ``handles.py`` have a blocking form for each asynchronous verb.
"""

from taskcore.blocking.app import SyncApp, SyncDeadLetters
from taskcore.blocking.handles import SyncJob, SyncTask
from taskcore.blocking.portal import Portal

__all__ = ["Portal", "SyncApp", "SyncDeadLetters", "SyncJob", "SyncTask"]
