"""Progress: what a running job reports, kept in the store and pushed to those that wait.

``handles.py`` is what a function holds, ``current.py`` where it gets it. ``reports.py`` has the records of one start of
a job, ``writer.py`` carries those of all jobs into the store, and ``record.py`` says what stands there. ``reading.py``
is the other side: ``job.progress()`` and ``job.log()``.
"""

from taskcore.progress.current import JobLogHandler, StartProgress, WriteLog
from taskcore.progress.handles import AsyncTracked, Progress, Tracked
from taskcore.progress.reading import LogReader, ProgressReader, ReadLog, ReadProgress
from taskcore.progress.record import JobLog, JobLogLine, JobProgress

__all__ = [
    "AsyncTracked",
    "JobLog",
    "JobLogHandler",
    "JobLogLine",
    "JobProgress",
    "LogReader",
    "Progress",
    "ProgressReader",
    "ReadLog",
    "ReadProgress",
    "StartProgress",
    "Tracked",
    "WriteLog",
]
