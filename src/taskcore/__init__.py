"""taskcore: background tasks with typed contracts and written-down delivery guarantees, on the broker you have."""

import typing

from taskcore.app import App
from taskcore.backend import QueueStats
from taskcore.control import Reject, RetryLater, Snooze
from taskcore.envelope import Envelope, ErrorRecord, Trail
from taskcore.errors import (
    AdapterMissing,
    BrokerUnavailable,
    DuplicateTask,
    EnqueueRefused,
    EnqueueUncertain,
    InvalidArguments,
    InvalidContract,
    InvalidName,
    InvalidSetting,
    InvalidURL,
    JobCancelled,
    JobExpired,
    JobFailed,
    KeyConflict,
    LeaseLost,
    LetterNotFound,
    NotRunning,
    PayloadTooLarge,
    ResultNotKept,
    ResultTimeout,
    StoreRefused,
    StoreRequired,
    TaskcoreError,
    UnencodableResult,
    UnreadableRecord,
    WrongTask,
)
from taskcore.observe import Event, JobInHand, WorkerStatus
from taskcore.policy import Retry
from taskcore.results import Cancelled, Dead, Expired, Failed, JobOutcome, JobStatus, Succeeded
from taskcore.router import Router
from taskcore.task import Call, Job, Task

if typing.TYPE_CHECKING:  # imported when they are used: see __getattr__
    from taskcore.blocking import SyncJob
    from taskcore.deadletter import BuriedJob, DeadLetter
    from taskcore.dependencies import Depends
    from taskcore.soft_timeouts import SoftTimeout
    from taskcore.worker import Context, current

__all__ = [
    "AdapterMissing",
    "App",
    "BrokerUnavailable",
    "BuriedJob",
    "Call",
    "Cancelled",
    "Context",
    "Dead",
    "DeadLetter",
    "Depends",
    "DuplicateTask",
    "EnqueueRefused",
    "EnqueueUncertain",
    "Envelope",
    "ErrorRecord",
    "Event",
    "Expired",
    "Failed",
    "InvalidArguments",
    "InvalidContract",
    "InvalidName",
    "InvalidSetting",
    "InvalidURL",
    "Job",
    "JobCancelled",
    "JobExpired",
    "JobFailed",
    "JobInHand",
    "JobOutcome",
    "JobStatus",
    "KeyConflict",
    "LeaseLost",
    "LetterNotFound",
    "NotRunning",
    "PayloadTooLarge",
    "QueueStats",
    "Reject",
    "ResultNotKept",
    "ResultTimeout",
    "Retry",
    "RetryLater",
    "Router",
    "Snooze",
    "SoftTimeout",
    "StoreRefused",
    "StoreRequired",
    "Succeeded",
    "SyncJob",
    "Task",
    "TaskcoreError",
    "Trail",
    "UnencodableResult",
    "UnreadableRecord",
    "WorkerStatus",
    "WrongTask",
    "current",
]

__version__ = "0.1.0"

#: Names that most programs do not use, and their modules, which are imported with the first use.
_LATER = {
    "BuriedJob": "taskcore.deadletter",
    "Context": "taskcore.worker",
    "DeadLetter": "taskcore.deadletter",
    "Depends": "taskcore.dependencies",
    "SoftTimeout": "taskcore.soft_timeouts",
    "SyncJob": "taskcore.blocking",
    "current": "taskcore.worker",
}


def __getattr__(name: str) -> typing.Any:
    """Import what most programs do not use."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - for these names only

    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, those that are not yet imported too."""
    return sorted({*globals(), *__all__})
