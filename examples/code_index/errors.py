"""The one error class of this program."""

from __future__ import annotations

__all__ = ["WorkerEnded"]


class WorkerEnded(Exception):
    """A worker process ended without being told to."""
