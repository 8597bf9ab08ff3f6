"""The worker: receive → perform → settle. Read ``worker.py`` first; it is the heart, the other files are its organs."""

from taskcore.worker.context import Context, current
from taskcore.worker.worker import Worker

__all__ = ["Context", "Worker", "current"]
