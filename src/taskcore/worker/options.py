"""What a worker may be set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

__all__ = ["WorkerOptions"]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one worker. All times in seconds.

    :param queues: where to look, most urgent first.
    :param concurrency: how many jobs run at once; of these at most ``threads`` in threads, ``processes`` in processes.
    :param queue_limits: how many jobs of a queue run at once; the others share the rest of ``concurrency``.
    :param lease: how long a delivery stays with a worker that says nothing.
    :param max_block: how long leases are kept while the event loop stands still.
    :param heartbeat: how often it tells the store what it does; 0: never.
    :param grace: how long running jobs may go on after ``stop``.
    :param park_for: how long a job waits for a worker that knows its task.
    :param keep_result: how long the outcome of a job of an unknown task is kept.
    :param result_limit: bytes that the result of one job may have.
    :param name: of the worker, in trails and logs.
    """

    queues: Sequence[str]
    concurrency: int
    threads: int
    processes: int
    lease: float
    max_block: float
    grace: float
    park_for: float
    keep_result: float | None
    result_limit: int
    name: str
    queue_limits: Mapping[str, int] = MappingProxyType({})
    heartbeat: float = 0.0
