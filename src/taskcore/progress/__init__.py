"""Progress: what a running job tells of itself, kept in the store and pushed to those that wait.

``handles.py`` is what a function holds, ``telling.py`` where it gets it. ``reports.py`` has the records of one start of
a job, ``writer.py`` carries those of all jobs into the store, and ``record.py`` says what stands there. ``reading.py``
is the other side: ``job.progress()`` and ``job.log()``.
"""

from taskcore.progress.handles import AsyncTracked, Progress, Tracked
from taskcore.progress.reading import LogReader, ProgressReader, ReadLog, ReadProgress
from taskcore.progress.record import JobLog, JobLogLine, JobProgress
from taskcore.progress.telling import JobLogHandler, StartProgress, WriteLog

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
