"""Checks of short waits: a retry may be due before its sender has heard that it is stored."""

from __future__ import annotations

from itertools import cycle

import anyio

from taskcore.backend import Delivery, Source
from taskcore.conformance.checks import BACKEND_CHECKS, check, require
from taskcore.conformance.guarantees.deliveries import eventually, job, put, settle
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, Reschedule, Verdict

JOBS, ATTEMPTS = 120, 4
BATCH_JOBS = 8  #: jobs in one batch of verdicts; with more of them, more lies between two writes for one job
RETRY_DELAYS = (0.0001, 0.001, 0.003, 0.01, 0.02)  #: seconds: less than a round trip, about one, and some


class _Tally:
    """How far each job is, and whether each delivery is the one that has to come next."""

    def __init__(self, envelopes: list[bytes]) -> None:
        self.left = dict.fromkeys(envelopes, 0)  # how often each was retried
        self.over = anyio.Event()
        self._waits = cycle(RETRY_DELAYS)

    def verdict_on(self, delivery: Delivery) -> Verdict:
        """Return what is next for this job."""
        retries = self.left.get(delivery.envelope)
        require(retries is not None, "a job came again after its end")
        trail = b"%d" % retries if retries else b""
        require(delivery.trail == trail, f"after {retries} retries a job came with the trail {delivery.trail!r}")
        require(delivery.redeliveries == 0, "a retry with a short wait counts as a redelivery")
        if retries == ATTEMPTS - 1:
            del self.left[delivery.envelope]
            return ACK
        self.left[delivery.envelope] += 1
        return Reschedule(next(self._waits), b"%d" % self.left[delivery.envelope])

    async def work(self, source: Source) -> None:
        """Take and settle until every job has ended."""
        while self.left:
            found = await source.receive(BATCH_JOBS)
            await settle(source, *((delivery, self.verdict_on(delivery)) for delivery in found))
        self.over.set()


@check(BACKEND_CHECKS, "C1", "C4", "C5", needs="delay")
async def a_short_retry_is_not_lost(harness: Harness) -> None:
    """Jobs that two workers retry with delays below a round trip are delivered for each attempt and end once."""
    queue, first, second = harness.queue(), await harness.backend(), await harness.backend()
    jobs = [job(queue) for _ in range(JOBS)]
    tally = _Tally([one.envelope for one in jobs])
    async with first.consume([queue], lease=harness.long) as one, second.consume([queue], lease=harness.long) as other:
        await put(first, *jobs)
        with anyio.move_on_after(harness.timeout):
            async with anyio.create_task_group() as group:
                group.start_soon(tally.work, one)
                group.start_soon(tally.work, other)
                await tally.over.wait()
                group.cancel_scope.cancel()
    require(not tally.left, f"{len(tally.left)} of {JOBS} jobs never came again after a retry with a short wait")

    async def is_empty() -> bool:
        [stats] = await first.admin.stats([queue])
        return not stats.unfinished

    if harness.features.counts != "absent":
        await eventually(harness, is_empty, "after every job ended, jobs are still counted")
