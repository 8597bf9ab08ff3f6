"""taskcore: background tasks with typed contracts and written-down delivery guarantees, on the broker you have."""

from taskcore.app import App
from taskcore.backend import QueueStats
from taskcore.blocking import SyncJob
from taskcore.control import Reject, RetryLater, Snooze
from taskcore.deadletter import DeadLetter
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
    StoreRequired,
    TaskcoreError,
    UnencodableResult,
    UnknownTask,
    WrongTask,
)
from taskcore.observe import Event
from taskcore.policy import Retry
from taskcore.results import Cancelled, Dead, Expired, Failed, JobOutcome, JobStatus, Succeeded
from taskcore.router import Router
from taskcore.task import Call, Job, Task
from taskcore.worker import Context, current

__all__ = [
    "AdapterMissing",
    "App",
    "BrokerUnavailable",
    "Call",
    "Cancelled",
    "Context",
    "Dead",
    "DeadLetter",
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
    "StoreRequired",
    "Succeeded",
    "SyncJob",
    "Task",
    "TaskcoreError",
    "Trail",
    "UnencodableResult",
    "UnknownTask",
    "WrongTask",
    "current",
]

__version__ = "0.1.0"
