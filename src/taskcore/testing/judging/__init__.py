"""What happened, written down as it happens; and a judge that reads it afterwards and knows nothing else.

History            every call and run: invoke, ok, refused, uncertain, start, end, …
RecordingBackend   writes down what passes the seam
Cast               who acts, in a test that plays every step itself
Promised           what else the broker and the store at hand are held to
collect · judge    what the broker has left, and what is wrong with it: lost, doubled, stuck, early, late, …
"""

from taskcore.testing.judging.cast import Cast
from taskcore.testing.judging.checker import judge
from taskcore.testing.judging.final import Final, Found, Left, collect
from taskcore.testing.judging.history import Entry, History, Kind
from taskcore.testing.judging.promised import Promised
from taskcore.testing.judging.recorder import RecordingBackend
from taskcore.testing.judging.report import Finding, PromisesBroken, Report

__all__ = [
    "Cast",
    "Entry",
    "Final",
    "Finding",
    "Found",
    "History",
    "Kind",
    "Left",
    "Promised",
    "PromisesBroken",
    "RecordingBackend",
    "Report",
    "collect",
    "judge",
]
