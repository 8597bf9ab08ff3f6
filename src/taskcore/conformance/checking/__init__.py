"""What happened, written down as it happens; and a judge that reads it afterwards and knows nothing else.

History            every call and run: invoke, ok, refused, uncertain, start, end, …
RecordingBackend   writes down what passes the seam
Actors             names for the acting processes, in a test that plays every step itself
Expectations       what else the broker and the store at hand are held to
collect            what the broker has left at the end
check_history      what the broker has left, and what is wrong with it: lost, doubled, stuck, early, late, …
"""

from taskcore.conformance.checking.actors import Actors
from taskcore.conformance.checking.checker import check_history
from taskcore.conformance.checking.expectations import Expectations
from taskcore.conformance.checking.recorder import RecordingBackend
from taskcore.conformance.checking.report import GuaranteesBroken, Report, Violation
from taskcore.conformance.checking.snapshot import FoundLetter, Left, Snapshot, collect
from taskcore.testing.history import EntryKind, History, HistoryEntry

__all__ = [
    "Actors",
    "EntryKind",
    "Expectations",
    "FoundLetter",
    "GuaranteesBroken",
    "History",
    "HistoryEntry",
    "Left",
    "RecordingBackend",
    "Report",
    "Snapshot",
    "Violation",
    "check_history",
    "collect",
]
