"""Cancelling where a broker cannot take back a waiting job: its workers know of requests before they start a job.

    first_starts.py    which jobs may start, as far as it is known without reading a record for each
    newest_request.py   which request is the newest, read now and then
    look_ahead.py      the records of received jobs, read in batches

A worker beside such a broker and a store loads this room by name. Without the room it does not start.
"""

from taskcore.cancelling.first_starts import FirstStarts

__all__ = ["FirstStarts"]
