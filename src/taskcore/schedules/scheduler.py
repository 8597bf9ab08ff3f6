"""The scheduler: a service beside a worker's jobs. Every instance looks; compare-and-set decides; none leads.

    read      the due schedules, and whether the job of the tick before has ended
    decide    decide.py
    claim     write the records, each over the version that was read       schedule.claimed
    publish   the jobs of the claims that were written                     schedule.published
    confirm   write that the broker has them                               schedule.confirmed

An instance whose claim meets another version takes the record that stands, and next time looks a moment later than the
winner. A claim that stays open, because its instance died, is published again by any instance, under the same id.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from taskcore.errors import BrokerUnavailable, TaskcoreError
from taskcore.records.keys import decode_key_record
from taskcore.records.names import outcome_name
from taskcore.schedules.clocks import ClockCheck
from taskcore.schedules.decide import Decision, decide
from taskcore.schedules.publish import TickAnswer, ToPublish, publish
from taskcore.schedules.record import CHANGED, ScheduleRecord, TickClaim
from taskcore.schedules.storage import FoundSchedule, ScheduleStorage
from taskcore.store import Record, Store, Version
from taskcore.task import Job
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger

if TYPE_CHECKING:
    from taskcore.schedules.declared import Declarations

__all__ = ["Scheduler"]

log = logger("taskcore.schedules")

SCHEDULES_PER_BATCH = 500  #: schedules that share their round trips
CLOCK_CHECK_EVERY = 1.0  #: seconds between two looks at the clock, which may jump
INDEX_EVERY, SWEEP_EVERY = 30_000, 600_000  #: milliseconds between two reads of the index, and of all records
OUTAGE_PAUSE = 1.0  #: seconds until a store that cannot be reached is tried again
UNKNOWN_AFTER = 60_000  #: milliseconds after which the log names a due schedule of an unknown task
RECHECK_AFTER = 60_000  #: milliseconds until a schedule that cannot fire here is looked at again
RETRY_REFUSED_FOR = 30_000  #: milliseconds for which a refused tick that runs at most once is tried again
RETIRE_AFTER = 3_600_000  #: milliseconds after which a schedule that no program declares is retired


class Scheduler:
    """Fires the schedules of a store.

    :param name: of this instance.
    :param stagger: milliseconds that this instance waits where another one was first.
    """

    def __init__(self, declarations: Declarations, store: Store, *, name: str, stagger: int) -> None:
        self._declarations = declarations
        self._components = declarations.components()
        self._store = store
        self._storage = ScheduleStorage(store)
        self._clocks = ClockCheck(store, name, self._now)
        self._stagger = stagger
        self._heap: list[tuple[int, str]] = []
        self._looks: dict[str, int | None] = {}
        self._revisions: dict[str, int] = {}
        self._behind: set[str] = set()  # another instance was first
        self._unsent: set[str] = set()  # ticks that surely are not stored
        self._named_at: dict[str, int] = {}  # when the log named an unknown task last
        self._changed = anyio.Event()
        self._read_index_at = self._sweep_at = 0
        self._began = 0

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._looks)} schedules>"

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Fire until cancelled. A store that is down delays ticks, and nothing else."""
        self._began = self._now()
        task_status.started()
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            group.start_soon(self._clocks.compare)
            group.start_soon(self._clocks.write)
            await self._repeat(self._declarations.declare)
            self._sweep_at = self._now() + SWEEP_EVERY
            while True:
                await self._repeat(self._turn)

    # ── the loop ──

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step until broker and store can be reached; another error is logged, and harms no job."""
        logged = False
        while True:
            try:
                return await step()
            except BrokerUnavailable as error:
                if not logged:
                    log.warning("schedules wait for the store: %s", error.what)
                logged = True
                self._read_index_at = 0  # what was popped is found again
                self._revisions.clear()
            except TaskcoreError as error:
                log.error("the scheduler failed, and tries again: %s", error)  # noqa: TRY400 - the text says it all
                self._read_index_at = 0
                self._revisions.clear()
            except Exception:
                log.exception("unexpected error in the scheduler; trying again")
                self._read_index_at = 0
                self._revisions.clear()
            await anyio.sleep(OUTAGE_PAUSE)

    async def _turn(self) -> None:
        """Do what is due, or sleep until something is."""
        now = self._now()
        if now >= self._read_index_at or self._changed.is_set():
            await self._read_index(now)
        if now >= self._sweep_at:
            await self._sweep(now)
        due = self._pop(now)
        if due:
            await self._look(due)
            return
        soonest = min(self._read_index_at, self._sweep_at, *(time for time, _ in self._heap[:1]))
        with anyio.move_on_after(min(max((soonest - now) / 1000, 0.0), CLOCK_CHECK_EVERY)):
            await self._changed.wait()

    async def _listen(self) -> None:
        """Learn at once when a schedule comes, goes or changes; without it the next read of the index shows it."""
        while True:
            try:
                async with self._store.watch(CHANGED) as records:
                    async for _ in records:
                        self._changed.set()
            except TaskcoreError as error:
                log.debug("changes of schedules are read, not pushed: %s", error)
            await anyio.sleep(OUTAGE_PAUSE)

    async def _read_index(self, now: int) -> None:
        self._changed = anyio.Event()
        index = await self._storage.index()
        for schedule in self._looks.keys() - index.keys():
            del self._looks[schedule]
            self._behind.discard(schedule)
        for schedule, revision in index.items():
            if self._revisions.get(schedule) != revision:
                self._plan(schedule, now, revisit=False)
        self._revisions = index
        self._read_index_at = now + INDEX_EVERY

    async def _sweep(self, now: int) -> None:
        """Look at every record again: a change whose writer died before its notice is found then."""
        await self._declarations.refresh(now, up_since=self._began)
        for schedule in self._revisions:
            if self._looks.get(schedule) is None:
                self._plan(schedule, now, revisit=False)
        self._sweep_at = now + SWEEP_EVERY

    def _pop(self, now: int) -> list[str]:
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(due) < SCHEDULES_PER_BATCH:
            time, schedule = heapq.heappop(self._heap)
            if self._looks.get(schedule) == time:
                self._looks[schedule] = None
                due.append(schedule)
        return due

    def _plan(self, schedule: str, look: int | None, *, revisit: bool = True) -> None:
        """Remember when to look at a schedule next."""
        if look is not None and revisit and schedule in self._behind:
            look += self._stagger
        self._looks[schedule] = look
        if look is not None:
            heapq.heappush(self._heap, (look, schedule))

    # ── one look ──

    async def _look(self, due: Sequence[str]) -> None:
        """Read, decide, claim, publish, confirm; each step once for all."""
        found = [one for one in await self._storage.read(due) if one is not None and self._can_fire(one.record)]
        over = await self._over([one.record for one in found])
        now = self._now()
        decisions: list[tuple[FoundSchedule, Decision]] = []
        for one in found:
            try:
                decisions.append((one, decide(one.record, now, last_over=over.get(one.record.id, True))))
            except TaskcoreError as error:
                log.error("schedule %s does not fire: %s", one.record.id, error)  # noqa: TRY400 - the text says it all
                self._plan(one.record.id, now + RECHECK_AFTER)
        won = await self._claim(decisions, now)
        ticks = [ToPublish(one.record, claim) for one, decision in won for claim in self._to_publish(decision, now)]
        if ticks:
            failpoint("schedule.claimed")
        answers = await publish(self._declarations.host, self._components, self._declarations.tasks, ticks, now)
        if ticks:
            failpoint("schedule.published")
        await self._confirm([one for one, _ in won], ticks, answers)
        for _, decision in won:
            if decision.cancel is not None:
                await self._cancel(decision.record, decision.cancel)

    def _can_fire(self, record: ScheduleRecord) -> bool:
        """Tell whether this program knows what the schedule is about; one that it does not know is looked at later."""
        if record.origin == "code" and record.id not in self._declarations.ids:
            return False  # a program that declares it fires it
        task = self._declarations.tasks.get(record.call.task)
        if task is not None and task.contract.version >= record.call.version:
            return True
        now = self._now()
        self._plan(record.id, now + RECHECK_AFTER)
        decision = decide(record, now - UNKNOWN_AFTER, last_over=True)
        if decision.fire and now - self._named_at.get(record.id, 0) >= UNKNOWN_AFTER:
            self._named_at[record.id] = now
            log.error(
                "schedule %s is due, and no worker here knows its task %s version %d; import the module that declares "
                "it, or remove the schedule",
                record.id, record.call.task, record.call.version,
            )  # fmt: skip
            self._components.events.emit("schedule.failed", schedule=record.id, task=record.call.task)
        return False

    async def _over(self, records: Sequence[ScheduleRecord]) -> dict[str, bool]:
        """Ask whether the jobs of the ticks before have ended, where that matters."""
        asked = [
            (record, last)
            for record in records
            if (last := record.last) is not None and record.policies.overlap != "allow" and not record.open
        ]
        if not asked:
            return {}
        names = [name for _, last in asked for name in (outcome_name(last.id), last.key or outcome_name(last.id))]
        read = await self._store.get_many(names)
        over: dict[str, bool] = {}
        for number, (record, last) in enumerate(asked):
            outcome, key = read[2 * number], read[2 * number + 1]
            over[record.id] = outcome is not None or (bool(last.key) and _is_free(key))
        return over

    async def _claim(
        self, decisions: Sequence[tuple[FoundSchedule, Decision]], now: int
    ) -> list[tuple[FoundSchedule, Decision]]:
        """Write what was decided; return what stands as this instance wrote it, or as it was without a change."""
        changed = [(one, decision) for one, decision in decisions if decision.record is not one.record]
        answers = iter(await self._storage.write([(decision.record, one.version) for one, decision in changed]))
        won: list[tuple[FoundSchedule, Decision]] = []
        for one, decision in decisions:
            schedule = one.record.id
            if decision.record is one.record:
                self._plan(schedule, decision.look)
                if decision.again or one.record.open:
                    won.append((one, decision))
                continue
            answer = next(answers)
            if answer is None:
                continue
            if isinstance(answer, FoundSchedule):
                self._behind.add(schedule)
                standing = decide(answer.record, now, last_over=False)
                self._plan(schedule, now if standing.fire or standing.record is not answer.record else standing.look)
                continue
            if decision.fire:
                self._behind.discard(schedule)
            self._plan(schedule, decision.look)
            self._report(one.record, decision)
            won.append((FoundSchedule(decision.record, answer), decision))
        return won

    def _report(self, before: ScheduleRecord, decision: Decision) -> None:
        """Count and report what was decided."""
        events, after = self._components.events, decision.record
        if decision.fire:
            events.emit("schedule.fired", schedule=after.id, size=len(decision.fire))
        if after.missed > before.missed:
            events.emit("schedule.missed", schedule=after.id, size=after.missed - before.missed)
            log.warning("schedule %s: %d instants were missed and do not fire", after.id, after.missed - before.missed)
        if after.overlapped > before.overlapped:
            events.emit("schedule.overlapped", schedule=after.id, size=after.overlapped - before.overlapped)

    def _to_publish(self, decision: Decision, now: int) -> list[TickClaim]:
        """List the claims to publish: new ones, those of dead instances, and what the broker refused before."""
        claims = [*decision.fire, *decision.again]
        if decision.record.call.at_most_once:
            claims += [
                claim
                for claim in decision.record.open
                if claim.id in self._unsent and now - claim.since < RETRY_REFUSED_FOR
            ]
        return claims

    async def _confirm(
        self, won: Sequence[FoundSchedule], ticks: Sequence[ToPublish], answers: Sequence[TickAnswer]
    ) -> None:
        """Write which ticks are done with; what is not known to be published stays open, and is looked at soon."""
        known = {tick.claim.id: answer for tick, answer in zip(ticks, answers, strict=True)}
        done = {claim for claim, answer in known.items() if answer in ("sent", "failed", "lost")}
        lost = {claim for claim, answer in known.items() if answer == "lost"}
        for tick, answer in zip(ticks, answers, strict=True):
            (self._unsent.add if answer == "unsent" else self._unsent.discard)(tick.claim.id)
            if answer in ("unsent", "uncertain"):
                look, soon = self._looks.get(tick.record.id), self._now() + 1_000
                self._plan(tick.record.id, soon if look is None else min(look, soon), revisit=False)
        changes: list[tuple[ScheduleRecord, Version]] = [
            (without(one.record, done, lost), one.version) for one in won if any(c.id in done for c in one.record.open)
        ]
        for standing in await self._storage.write(changes):
            if isinstance(standing, FoundSchedule):
                await self._storage.change(standing.record.id, lambda old: old and without(old, done, lost))
        if changes:
            failpoint("schedule.confirmed")

    async def _cancel(self, record: ScheduleRecord, job_id: str) -> None:
        """Cancel the job of the tick before, if it has not started."""
        task = self._declarations.tasks[record.call.task]
        key = record.call.key
        job = Job(job_id, task, record.call.queue or task.options.queue, key)
        await self._declarations.host.cancel(job)

    def _now(self) -> int:
        return int(self._components.clock() * 1000)


def without(record: ScheduleRecord, done: set[str], lost: Container[str] = ()) -> ScheduleRecord:
    """Return a record without the claims that are done with; the same object if it has none of them.

    :param lost: those of them that count as lost.
    """
    kept = tuple(claim for claim in record.open if claim.id not in done)
    if len(kept) == len(record.open):
        return record
    counted = record.lost + sum(claim.id in lost for claim in record.open)
    return msgspec.structs.replace(record, open=kept, lost=counted)


def _is_free(key: Record | None) -> bool:
    """Tell whether a key's record says that its job has ended."""
    return key is None or decode_key_record(key.value).state == "done"
