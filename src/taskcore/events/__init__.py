"""Events for outsiders: what happens to jobs, told by their workers through the store while a subscriber listens.

``subscription.py`` is ``app.events(…)``, ``feed.py`` what a worker runs once it is asked, and ``record.py`` what the
two write. ``roster.py`` beside this room hears the subscribers: at its heartbeats, without a read of its own.
"""

from taskcore.events.record import JobEvent
from taskcore.events.subscription import EventStream, Subscribe

__all__ = ["EventStream", "JobEvent", "Subscribe"]
