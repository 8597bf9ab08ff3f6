"""Settling: the end of a job becomes durable, in the order of the guarantees (C8).

    1. the key's outcome     committed under its fence; a job that lost its key commits nothing
    2. the job's outcome     written once; an outcome that is there already stands
    3. the verdict           settle, the last step: only now may the broker forget the job; reported at once
    4. the start marker      cleared

Each step is one batch for all jobs that ended while the last batch was under way, and may be repeated: a step that
fails is tried again until the leases are over, then the broker hands the jobs out again. No other module of the core
calls ``settle``; a job that runs at most once is acknowledged early, here too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from taskcore.backend import Delivery, Source
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import ACK, CLAIM, Verdict
from taskcore.observe import EventName, Events
from taskcore.results import event_of_ack
from taskcore.toolkit.batching import Buffer
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.worker.decide import Settlement, bury_unstored
from taskcore.worker.execution import ENDED, ENDED_ACKED, LOST, RECEIVED, STARTED_ACKED, Execution
from taskcore.worker.outages import Outage
from taskcore.worker.settle_records import RecordSettler

__all__ = ["Settler"]

log = logger("taskcore.worker")

SETTLE_BACKLOG = 2_000  #: settlements waiting, above which no new jobs are received


class Settler:
    """Carries settlements to store and broker, a batch at a time.

    :param forget: called with the jobs that are no longer in hand.
    :param lease: seconds; a job that was received less than that ago is certainly ours.
    :param holds: tells whether any other job is still ours, by this worker's clock.
    :param note_lost: notes that a job is not; returns why.
    :param outage: notes when the broker cannot be reached, and when it can again.
    """

    def __init__(
        self,
        records: RecordSettler | None,
        events: Events,
        *,
        forget: Callable[[Sequence[Execution]], None],
        lease: float,
        holds: Callable[[Execution, float], bool],
        note_lost: Callable[[Execution], str],
        outage: Outage,
    ) -> None:
        self.records = records  #: a feature may put its own in front
        self._events = events
        self._forget = forget
        self._lease = lease
        self._holds = holds
        self._note_lost = note_lost
        self._waiting = Buffer[Settlement](full=SETTLE_BACKLOG)
        self.put = self._waiting.put  #: hand over a settlement; never waits
        self.close = self._waiting.close  #: no more settlements will come; ``run`` ends when the last one is done
        self._outage = outage
        #: Goes around each commit; the builder puts middleware there.
        self.commit_with: Callable[[Sequence[Settlement]], Awaitable[None]] = self.commit

    def is_behind(self) -> bool:
        """Tell whether more jobs have ended than can be settled at the moment."""
        return self._waiting.is_full

    async def run(self) -> None:
        """Settle until closed."""
        owed: list[Settlement] = []
        while batch := await self._waiting.take(owed):
            self.count(batch[len(owed) :])
            try:
                owed = await self._commit(batch)
            except Exception as error:  # noqa: BLE001 - it belongs to a job of the batch
                owed = await self._commit_apart(batch, error)
            except BaseException:  # the worker ends first
                self._leave([one for one in batch if not one.settled])
                raise
            if self._outage.is_on and not owed:
                self._outage.recovered()

    def count(self, batch: Sequence[Settlement]) -> None:
        """Count how jobs ended before callers can learn it; what does not come true is taken back."""
        names: list[EventName] = [
            event_of_ack(type(one.outcome), "job.succeeded") if one.verdict is ACK else one.event for one in batch
        ]
        self._events.counters.update(names)

    async def _commit(self, batch: list[Settlement]) -> list[Settlement]:
        """Commit a batch; return what has to be tried again after an outage, a pause later.

        What the broker refuses for lack of room does not hold up the others of its batch, nor jobs that end meanwhile:
        their ends may make the room.
        """
        if batch := self._still_ours(batch):
            try:
                await self.commit_with(batch)
            except BrokerUnavailable as error:
                held = [one for one in batch if one.job.delivery in getattr(error, "held", ())]
                again = await self._commit([one for one in batch if one not in held]) if held else batch
                await self._outage.failed(error)
                return [*held, *again]
        return []

    async def _commit_apart(self, batch: Sequence[Settlement], error: Exception) -> list[Settlement]:
        """Commit each job of a batch alone: what one job cannot have must not hold up the others."""
        log.warning("%d jobs are settled one by one: %s", len(batch), error)
        owed: list[Settlement] = []
        for one in batch:
            try:
                owed += await self._commit([one])
            except Exception as own:  # noqa: BLE001 - it ends this job
                owed += await self._bury_unstored(one, own)
        return owed

    async def _bury_unstored(self, one: Settlement, error: Exception) -> list[Settlement]:
        """End a job whose records the store refuses: it becomes a dead letter, with the reason and no outcome."""
        if one.settled:
            self._forget([one.job])
            return []
        bury_unstored(one, error, self._events)
        return await self._commit([one])  # an error ends the worker: the job is handed out when its lease is over

    def _still_ours(self, batch: list[Settlement]) -> list[Settlement]:
        """Drop settlements whose lease has ended; another worker may have the job (C7)."""
        now = anyio.current_time()
        fresh = now - self._lease
        ours = [
            one
            for one in batch
            if (one.job.received > fresh and one.job.state is ENDED) or one.settled or self._holds(one.job, now)
        ]
        if len(ours) < len(batch):
            for one in batch:
                if one not in ours:
                    self._give_up(one)
        return ours

    def _give_up(self, one: Settlement) -> None:
        """End a settlement whose lease is over. A first try may have been carried out, its answer lost."""
        job = one.job
        if one.tried:
            self._events.emit("settle.unconfirmed", **job.labels)
        if not one.tried or job.state is not LOST:
            self._lose(one)
            return
        log.warning("job %s: its end is not confirmed (%s)", job.id, self._note_lost(job), extra=job.extra)
        self._forget([job])

    def _leave(self, batch: Sequence[Settlement]) -> None:
        """Tell of jobs that ended and could not be settled before the worker's own end."""
        self._events.counters.subtract(one.event for one in batch if not one.tried)
        log.warning("the broker has not confirmed the ends of %d jobs in time; it may hand them out again", len(batch))
        for one in [one for one in batch if one.tried]:
            self._events.emit("settle.unconfirmed", **one.job.labels)

    def _lose(self, one: Settlement) -> None:
        job = one.job
        self._events.counters[one.event] -= 1
        lost = "job %s: %s; its outcome is not recorded here, another worker has the job"
        log.warning(lost, job.id, self._note_lost(job), extra=job.extra)
        self._events.emit("job.lost", **job.labels)
        self._forget([job])

    async def ack_early(self, job: Execution) -> bool:
        """Acknowledge a job before it starts, so that it runs at most once (C9); False if its lease is lost.

        From here on it has no lease that could be lost, and is not given back: the broker may have forgotten it before
        its answer is here.
        """
        job.state = STARTED_ACKED
        try:
            acked = not await job.source.settle([(job.delivery, CLAIM)])
        except BrokerUnavailable as error:
            log.warning("job %s may run at most once and cannot be acknowledged first: %s", job.id, error.what)
            acked = False
        except Exception:  # nothing of the job's own: what raises in its function is not this
            job.state = RECEIVED
            raise
        failpoint("once.forgotten")
        if not acked:
            job.state = LOST
        return acked

    async def commit(self, batch: Sequence[Settlement]) -> None:
        """Do the four steps for one batch.

        :raises BrokerUnavailable: committing the batch again does the steps that are not done yet.
        """
        if self.records is not None:
            await self.records.before(batch)
        failpoint("settle.ended")
        await self._settle(batch)
        failpoint("settle.settled")
        if self.records is not None:
            await self.records.after(batch)
        self._forget([one.job for one in batch if one.settled])

    async def _settle(self, batch: Sequence[Settlement]) -> None:
        by_source: dict[Source | None, list[Settlement]] = {}
        for one in batch:
            if not one.settled:
                source = None if one.job.state is ENDED_ACKED else one.job.source
                by_source.setdefault(source, []).append(one)
        for at, held in by_source.items():
            await self._settle_at(at, held)

    async def _settle_at(self, source: Source | None, batch: Sequence[Settlement]) -> None:
        """Tell the verdicts; without a source the broker has forgotten the jobs already."""
        repeated, verdicts = set[Settlement](), list[tuple[Delivery, Verdict]]()
        for one in batch:
            if one.tried:
                repeated.add(one)
            one.tried = True
            verdicts.append((one.job.delivery, one.verdict))
        lost = {id(delivery) for delivery in (await source.settle(verdicts) if source is not None else ())}
        for one in batch:
            if not lost or id(one.job.delivery) not in lost:
                one.settled = True
            elif one in repeated:  # the first try may have been carried out, its answer lost
                self._events.emit("settle.unconfirmed", **one.job.labels)
                one.settled = True
            else:
                self._lose(one)
        if self._events.listeners:  # told at once: the steps that follow may fail, and be done late or never (C19)
            for one in batch:
                if one.settled:
                    self._events.tell(one.event, one.facts)
