"""The worker: receive → perform → settle. Read ``worker.py`` first: it drives the other files."""

from taskcore.worker.context import Context, current

__all__ = ["Context", "current"]
