"""Measuring what there is to do, and setting the number of worker processes by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from taskcore.backend import QueueStats
from taskcore.errors import BrokerUnavailable
from taskcore.supervisor.autoscale import Load, Trend, decide
from taskcore.supervisor.supervisor import Supervisor
from taskcore.toolkit.logging import logger

__all__ = ["scale"]

log = logger("taskcore.supervisor")

LOOK_EVERY = 1.0  #: seconds between two looks


async def scale(
    supervisor: Supervisor,
    slots: int,
    queues: Sequence[str],
    stats: Callable[[Sequence[str]], Awaitable[Sequence[QueueStats]]],
) -> None:
    """Set how many processes there should be, again and again, until cancelled.

    :param slots: the jobs that one process runs at once.
    :param stats: counts the jobs of queues.
    """
    trend, options = Trend(), supervisor.options
    while True:
        await anyio.sleep(LOOK_EVERY)
        try:
            counted = await stats(queues)
        except BrokerUnavailable:  # the workers say that it is away; there is nothing to decide by
            continue
        load = _load(supervisor, counted)
        wanted, trend = decide(supervisor.wanted, options.least, options.most, slots, load, trend)
        if wanted != supervisor.wanted:
            log.info(
                "%d processes instead of %d: %d jobs ready, the oldest for %.1f s, %.0f%% busy",
                wanted,
                supervisor.wanted,
                load.ready,
                load.oldest or 0.0,
                load.utilisation * 100,
            )
            supervisor.want(wanted)


def _load(supervisor: Supervisor, counted: Sequence[QueueStats]) -> Load:
    reports = [process.report for process in supervisor.settled]
    return Load(
        ready=sum(stats.ready for stats in counted),
        oldest=max((stats.oldest for stats in counted if stats.oldest is not None), default=None),
        running=sum(report.running for report in reports),
        utilisation=sum(report.utilisation for report in reports) / max(1, len(reports)),
    )
