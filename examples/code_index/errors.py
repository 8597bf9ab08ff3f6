"""The one error of this program's own."""

from __future__ import annotations

__all__ = ["WorkerEnded"]


class WorkerEnded(Exception):
    """A worker process ended although nobody told it to."""
