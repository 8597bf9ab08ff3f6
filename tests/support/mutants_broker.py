"""Seeded bugs of a broker: the in-memory one, patched."""

from __future__ import annotations

from unittest.mock import patch

import msgspec

from taskcore.backends.memory import backend as memory
from taskcore.backends.memory import ledger
from taskcore.backends.memory.ledger import LEASED, READY, SCHEDULED, Ledger
from taskcore.lifecycle import Bury, Release, Reschedule
from taskcore.toolkit.failpoints import failpoint
from tests.support.planting import instead, mutant


@mutant("model")
def ack_forgets_ids():
    """Forget the id of a job on ack."""
    with patch.object(Ledger, "_ended_lately", lambda self, job_id, now: False):
        yield


@mutant("model")
def ready_list_is_trimmed():
    """Keep only the newest jobs of a queue."""

    def publish(original, self, item, now, **named):
        answer = original(self, item, now, **named)
        queue = self.queues[item.queue]
        while queue.counts[READY] > 2:
            self._end(next(job for job in queue.ready if job.place is READY), now)
        return answer

    with instead(Ledger, "publish", publish):
        yield


@mutant("sweep")
def promotion_is_not_atomic():
    """Remove from the delay store, then insert into ready."""

    def advance(original, self, now):
        while self._due and self._due[0][0] <= now:
            job = ledger.heapq.heappop(self._due)[2]
            if job.place is SCHEDULED and job.expires <= now:
                failpoint("promote.popped")
                self._make_ready(job, now)
        original(self, now)

    with instead(Ledger, "advance", advance):
        yield


@mutant("sweep")
def receive_pops_before_the_lease():
    """Remove from ready, then lease."""

    def lease(original, self, queues, limit, lease, now):
        self.advance(now)
        for queue in (self.queues[name] for name in queues if name in self.queues):
            if queue.ready:
                head = queue.ready.popleft()
                failpoint("receive.popped")
                queue.ready.appendleft(head)
        return original(self, queues, limit, lease, now)

    with instead(Ledger, "lease", lease):
        yield


@mutant("model")
def no_fencing():
    """Let every former holder settle the job."""

    def settle(original, self, delivery, verdict, now):
        job = delivery.receipt.job
        return original(
            self,
            msgspec.structs.replace(delivery, receipt=ledger.Receipt(job, job.fence, delivery.receipt.expires)),
            verdict,
            now,
        )

    with (
        patch.object(ledger.Receipt, "valid", property(lambda self: self.job.place is LEASED)),
        instead(Ledger, "settle", settle),
    ):
        yield


@mutant("model")
def lost_leases_are_not_reported():
    """Report that every verdict went well."""

    async def settle(original, self, batch):
        await original(self, batch)
        return []

    with instead(memory.MemorySource, "settle", settle):
        yield


@mutant("model")
def extending_revives_an_expired_lease():
    """Accept a heartbeat after the lease ended."""

    async def extend(self, batch):
        expires = memory.anyio.current_time() + self._lease
        return [delivery for delivery in batch if not self._ledger.extend(delivery, expires)]

    with patch.object(memory.MemorySource, "extend", extend):
        yield


@mutant("model")
def reclaiming_resets_the_count():
    """Make a delivery after a lost lease look like the first."""

    def advance(original, self, now):
        original(self, now)
        for job in self._jobs.values():
            job.redeliveries = 0

    with instead(Ledger, "advance", advance):
        yield


@mutant("model")
def expired_leases_stay():
    """Never look for expired leases."""

    def advance(original, self, now):
        leases, self._leases = self._leases, []
        original(self, now)
        self._leases = leases

    with instead(Ledger, "advance", advance):
        yield


@mutant("sweep")
def release_counts_as_a_crash():
    """Make what is given back look like a lost lease."""

    def settle(original, self, delivery, verdict, now):
        if isinstance(verdict, Release) and delivery.receipt.valid:
            delivery.receipt.job.redeliveries += 1
        return original(self, delivery, verdict, now)

    with instead(Ledger, "settle", settle):
        yield


@mutant("sweep")
def retry_acks_before_it_republishes():
    """End the old copy first."""

    def settle(original, self, delivery, verdict, now):
        receipt = delivery.receipt
        if not isinstance(verdict, Reschedule) or not receipt.valid:
            return original(self, delivery, verdict, now)
        self._end(receipt.job, now)
        failpoint("retry.acked")
        self._jobs[receipt.job.id] = receipt.job
        receipt.job.place = LEASED
        receipt.job.queue.counts[LEASED] += 1
        receipt.job.queue.counts[ledger.GONE] -= 1
        del self._ended[receipt.job.id]
        return original(self, delivery, verdict, now)

    with instead(Ledger, "settle", settle):
        yield


@mutant("sweep")
def dead_letter_is_acked_first():
    """End the job, then write its letter."""

    def settle(original, self, delivery, verdict, now):
        receipt = delivery.receipt
        if not isinstance(verdict, Bury) or not receipt.valid:
            return original(self, delivery, verdict, now)
        self._end(receipt.job, now)
        failpoint("bury.acked")
        self._bury(receipt.job, verdict.reason, verdict.trail)
        return True

    with instead(Ledger, "settle", settle):
        yield


@mutant("model")
def short_waits_are_lost():
    """Store a retry that is due at once where no worker looks."""

    def settle(original, self, delivery, verdict, now):
        if isinstance(verdict, Reschedule) and 0 < verdict.after < 1.0 and delivery.receipt.valid:
            self._end(delivery.receipt.job, now)
            return True
        return original(self, delivery, verdict, now)

    with instead(Ledger, "settle", settle):
        yield


@mutant("model")
def promoted_early():
    """Make a job ready two seconds before its time."""

    def schedule(original, self, job, due):
        original(self, job, due - 2.0)

    with instead(Ledger, "_schedule", schedule):
        yield


@mutant("model")
def cancelled_jobs_still_start():
    """Confirm a removal and do nothing."""

    def remove(original, self, queue, job_id, now):
        job = self._jobs.get(job_id)
        return job is not None and job.place in (READY, SCHEDULED)

    with instead(Ledger, "remove", remove):
        yield


@mutant("model")
def replay_keeps_the_letter():
    """Send the job again, but keep its letter."""
    with patch.object(Ledger, "drop", lambda self, letter_id: True):
        yield
