"""Parking: tells people and callers of the jobs that wait for a worker that knows their task.

    parking.py    a warning in the log, and a record that callers find
    counts.py     how many of them there are, for ``app.stats``

Without this room workers park such jobs all the same, in silence.
"""

from taskcore.parking.parking import Parking

__all__ = ["Parking"]
