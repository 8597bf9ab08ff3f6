"""Batches: jobs that are sent together, while their sender learns of them, and what follows when all have ended.

async with app.batch("import-4711", on_complete=summarise.call(4711), on_success=ship.call(4711)) as batch:
    async for row in rows:
        await batch.add(import_row.call(row))
print(await batch.progress())                       BatchProgress(added=812, succeeded=640, failed=3, is_closed=True)

A batch is a workflow: one map that is open, and the callbacks behind it. Its jobs are sent 500 at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypedDict, cast

import msgspec

from taskcore.components import Components
from taskcore.envelope import new_id, running
from taskcore.errors import EnqueueRefused
from taskcore.results import Succeeded, error_of
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.task import Call, Job, Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.units import Duration
from taskcore.toolkit.values import PublicValue
from taskcore.workflows.advance import Advancer
from taskcore.workflows.batch_closing import GIVEN_UP, close_batch, decide_size, give_up
from taskcore.workflows.children import child_step
from taskcore.workflows.errors import BatchClosed, InvalidWorkflow, WorkflowExists
from taskcore.workflows.marks import LEAF, MarkCounts
from taskcore.workflows.names import batch_id, list_name, map_name, owner_name, plan_name, width_name
from taskcore.workflows.plan import AFTER_DEADLINE, CHUNK, MAP_LIMIT, Over, Plan, StepPlan, decode_plan, encode_plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader

__all__ = ["Batch", "BatchOptions", "BatchProgress"]

RESULT_LIMIT = 1024  #: bytes of the counts of a batch


class BatchOptions(TypedDict, total=False):
    """The options of a batch. A time is seconds, a timedelta, or text such as ``"5m"``.

    :param on_complete: sent when all jobs have ended, in whatever way.
    :param on_success: sent when all jobs have ended well.
    :param open_for: a batch that is not closed after this time is cancelled; default: an hour.
    :param deadline: no job of it starts after this time; default: a day.
    :param keep: how long its outcome is kept; default: as the app keeps results, or an hour.
    :param queue: where the job goes that looks after it; default: that of the callbacks, or ``"default"``.
    """

    on_complete: Call[Any]
    on_success: Call[Any]
    open_for: Duration
    deadline: Duration
    keep: Duration
    queue: str


class BatchProgress(PublicValue, frozen=True, kw_only=True):
    """How many jobs a batch has, and how they ended.

    :param added: those that were sent so far; while it is open, only its sender knows of those that have not ended.
    :param failed: dead, expired or cancelled.
    """

    added: int
    succeeded: int
    failed: int
    is_closed: bool = True

    @property
    def waiting(self) -> int:
        """How many have not ended."""
        return self.added - self.succeeded - self.failed


class BatchLimits(msgspec.Struct, frozen=True):
    """The times of a batch, in seconds."""

    open_for: float
    deadline: float
    keep: float


class Batch:
    """A batch: open while the ``async with`` block runs, then a handle.

    Leaving the block closes it. An error in the block cancels it; in a job that is tried again, the next attempt opens
    the same batch, and has to add the same jobs in the same order.
    """

    def __init__(
        self,
        name: str,
        callbacks: Iterable[tuple[Call[Any], bool]],
        limits: BatchLimits,
        queue: str,
        components: Components,
        source: str | None,
        counts: Task[..., BatchProgress],
    ) -> None:
        job = running.get(None)
        self.name = name
        self.id = new_id() if job is None else batch_id(job.envelope.id, name)
        self._in_job = job is not None
        self._limits = limits
        self._components = components
        self._sender = StepSender(components, source)
        self._counts = counts
        self._waiting: list[Call[Any]] = []
        self._sent = 0
        self._is_open = False
        steps = [StepPlan(name="jobs", task="batch", queue=queue, over=Over("", is_open=True), goes_on=True)]
        for call, only_if_all in callbacks:
            step = child_step(call, goes_on=False)
            name_of_step = step.name if step.name not in {one.name for one in steps} else f"{step.name}-2"
            steps.append(
                msgspec.structs.replace(
                    step,
                    name=name_of_step,
                    args=msgspec.Raw(call.payload),
                    key=call.options.key,
                    after=(0,),
                    if_all=only_if_all,
                )
            )
        self._steps = tuple(steps)
        self.plan: Plan | None = None

    def __repr__(self) -> str:
        return f"<Batch {self.id} {self.name}>"

    # ── opening ──

    async def __aenter__(self) -> Self:
        """Open it: from now on it ends, whatever becomes of this program.

        :raises EnqueueRefused: surely not opened (TC203).
        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        """
        job, now = running.get(None), self._components.clock()
        plan = Plan(
            name=self.name,
            steps=self._steps,
            last=0,
            deadline=now + self._limits.deadline,
            keep=self._limits.keep,
            correlation_id=None if job is None else job.envelope.correlation_id or job.envelope.id,
        )
        life = self._limits.deadline + AFTER_DEADLINE
        answer, _ = await self._store.put_many(
            [
                Write(key=plan_name(self.id), value=encode_plan(plan), expect=ABSENT, keep=life),
                Write(key=owner_name(self.id), value=self.id.encode(), keep=life),
            ]
        )
        if isinstance(answer, Conflict) and answer.current is not None:
            standing = decode_plan(answer.current.value)
            if msgspec.structs.replace(plan, deadline=standing.deadline) != standing:
                raise WorkflowExists(
                    f"this job opened another batch called {self.name} before",
                    fix="let each attempt open the same batches, and give each a name of its own",
                )
            plan = standing
        self.plan = plan
        failpoint("batch.planned")
        await self._publish([self._sender.guard(self.id, plan, self._limits.open_for)])
        self._is_open = True
        failpoint("batch.opened")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is None:
            await self.close()
        elif not self._in_job:
            await self.cancel()
        self._is_open = False

    # ── adding ──

    async def add(self, call: Call[Any]) -> None:
        """Add a job; it is sent with others, at the latest when the batch is closed.

        :raises InvalidWorkflow: the call cannot be a child: it may run at most once, … (TC311).
        :raises BatchClosed: the batch is not open (TC313).
        :raises EnqueueRefused, BrokerUnavailable: some jobs are not sent; adding goes on with them.
        """
        self._require_open()
        child_step(call, goes_on=True)
        if self._sent + len(self._waiting) >= MAP_LIMIT:
            raise InvalidWorkflow(f"a batch has at most {MAP_LIMIT:,} jobs", fix="give each job several elements")
        self._waiting.append(call)
        if len(self._waiting) >= CHUNK:
            await self.flush()

    async def add_many(self, calls: Iterable[Call[Any]]) -> None:
        """Add jobs, as :meth:`add` does."""
        for call in calls:
            await self.add(call)

    async def flush(self) -> None:
        """Send what was added so far."""
        self._require_open()
        while self._waiting:
            calls, plan = self._waiting[:CHUNK], self._plan
            messages = [self._sender.call(self.id, plan, self._sent + at, call) for at, call in enumerate(calls)]
            if self._in_job:
                await self._compare(calls)
            await self._publish(messages)
            failpoint("batch.added")
            self._sent += len(calls)
            del self._waiting[: len(calls)]

    async def _compare(self, calls: list[Call[Any]]) -> None:
        """Refuse jobs that an earlier attempt did not add: places in the batch are numbers, and both would have one."""
        digest = hashlib.blake2b(digest_size=16)
        for call in calls:
            digest.update(msgspec.json.encode((call.task.name, msgspec.Raw(call.payload), call.options.key)))
        life = self._limits.deadline + AFTER_DEADLINE
        name = list_name(self.id, 0, self._sent)
        answer = await self._store.put(name, digest.digest(), expect=ABSENT, keep=life)
        if isinstance(answer, Conflict) and answer.current is not None and answer.current.value != digest.digest():
            raise InvalidWorkflow(
                f"an earlier attempt of this job added other jobs to the batch {self.name}",
                fix="let each attempt add the same jobs in the same order, or send each batch by a job of its own",
            )

    # ── closing ──

    async def close(self) -> None:
        """Close it: when all its jobs have ended, the callbacks are sent. Leaving the block does it.

        :raises BatchClosed: it was not closed in time, and is cancelled (TC313).
        :raises EnqueueRefused, BrokerUnavailable: closing again is safe.
        """
        await self.flush()
        now = self._components.clock()
        size = await decide_size(self._store, self.id, self._plan, self._sent, now)
        if size == GIVEN_UP:
            raise BatchClosed(
                f"the batch {self.name} was not closed in time, and is cancelled",
                fix="give it more time: open_for=…",
            )
        if size != self._sent:
            raise InvalidWorkflow(
                f"an earlier attempt closed the batch {self.name} with {size:,} jobs, and this one has {self._sent:,}",
                fix="let each attempt add the same jobs",
            )
        store = self._store
        advancer = Advancer(store, RecordReader(store), self._sender, spread=False, result_limit=RESULT_LIMIT)
        refused = await close_batch(advancer, self.id, self._plan, size, now)
        if refused:
            raise _refused(self, refused)
        self._is_open = False

    async def cancel(self) -> bool:
        """Let no further job of it start, and no callback. True: it is cancelled; False: it has ended, or was closed.

        A batch that is closed is cancelled by ``await app.workflows.cancel(batch.id)``.
        """
        now = self._components.clock()
        if await decide_size(self._store, self.id, self._plan, GIVEN_UP, now) != GIVEN_UP:
            return False
        await give_up(self._store, self.id, self._plan, now)
        self._is_open = False
        return True

    # ── asking ──

    async def progress(self) -> BatchProgress:
        """Count its jobs, and how they ended."""
        reader = RecordReader(self._store)
        [width] = await reader.values([width_name(self.id, 0)])
        is_closed = width is not None and int(width) != GIVEN_UP
        added = int(width or 0) if is_closed else self._sent
        leaves = [map_name(self.id, 0, leaf) for leaf in range(-(-added // LEAF))]
        counts = [MarkCounts.of(marks or b"") for marks in await reader.values(leaves)] if leaves else []
        failed = sum(one.failed + one.skipped for one in counts)
        succeeded = sum(one.succeeded for one in counts)
        if is_closed and added % LEAF:
            succeeded -= LEAF - added % LEAF  # marks of places that no job has
        return BatchProgress(added=added, succeeded=max(succeeded, 0), failed=failed, is_closed=is_closed)

    async def wait(self, timeout: Duration | None = None) -> BatchProgress:
        """Wait until all its jobs and its callbacks have ended; return how they ended.

        :raises JobFailed: a callback failed (TC403).
        :raises JobCancelled: it was cancelled, or not closed in time (TC404).
        :raises ResultTimeout: it has not ended yet (TC401).
        """
        outcome = await Job(self.id, self._counts, self._steps[0].queue).outcome(timeout)
        if isinstance(outcome, Succeeded):
            return outcome.value
        raise error_of(self.id, self.name, outcome, has_dead_letter=False)

    # ── parts ──

    @property
    def _store(self) -> Store:
        return cast("Store", self._components.store)

    @property
    def _plan(self) -> Plan:
        self._require_open(ever=True)
        return cast("Plan", self.plan)

    def _require_open(self, *, ever: bool = False) -> None:
        if self.plan is None or not (self._is_open or ever):
            raise BatchClosed(
                f"the batch {self.name} is not open",
                fix='async with app.batch("name") as batch: await batch.add(…)',
            )

    async def _publish(self, messages: list[Any]) -> None:
        refused = await self._sender.publish(messages)
        if refused:
            raise _refused(self, refused)


def _refused(batch: Batch, refused: dict[str, str]) -> EnqueueRefused:
    return EnqueueRefused(
        f"{len(refused):,} jobs of the batch {batch.name} were not sent: {next(iter(refused.values()))}",
        fix="try again when there is room; those that were sent are not sent twice",
    )
