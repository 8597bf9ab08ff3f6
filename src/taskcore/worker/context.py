"""``current()``: what a running function can ask about its job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from taskcore.envelope import Envelope, Tick, Trail, running
from taskcore.errors import InvalidSetting, NotRunning
from taskcore.records.keys import Completion, IdempotencyKeys, KeyRecord
from taskcore.results import StoredOutcome, encode_outcome
from taskcore.task import Task
from taskcore.toolkit.values import Door

if TYPE_CHECKING:  # a slot knows its context, too; the room is imported behind its doors
    from taskcore.progress import StartProgress, WriteLog
    from taskcore.worker.execution import Slot

__all__ = ["Context", "HeldKey", "current", "lifespan_state", "running"]

lifespan_state: ContextVar[Any] = ContextVar("taskcore.lifespan_state")  #: what the lifespan of the app yielded


class HeldKey(msgspec.Struct, frozen=True, gc=False):
    """The key that the job holds.

    :param name: of its record.
    :param window: seconds for which the outcome is kept.
    """

    name: str
    claim: KeyRecord
    window: float


class Context(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The job that runs here.

    :param envelope: the job as it was sent.
    :param trail: what happened to it so far, with all errors.
    :param queue: the queue that it came from.
    :param crashes: how many starts of it are suspected to have killed their process.
    :param fence: a number that grows with every new holder of the job, or of its key; hand it to systems that can
        refuse an older one (C7). Where a broker does not count hand-outs, two holders may have the same without a
        key, or after its window.
    """

    envelope: Envelope
    trail: Trail
    queue: str
    crashes: int
    fence: int
    _cancel_requested: Callable[[str], Awaitable[bool]]
    _task: Task[..., Any] | None = None
    _held_key: HeldKey | None = None
    _slot: Slot | None = None
    _link: Any = None  #: to the worker, where the job runs in a process of its own

    #: Tell how far this job has got: ``current().progress(total=100)``, ``for row in current().progress(rows)``.
    progress: ClassVar[Door[StartProgress]] = Door("taskcore.progress:StartProgress")
    #: Add a line to the log of this job: ``current().log("fetched")``.
    log: ClassVar[Door[WriteLog]] = Door("taskcore.progress:WriteLog")

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.envelope.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self.envelope.task

    @property
    def attempt(self) -> int:
        """1 for the first attempt; only attempts that ended in an error count."""
        return self.trail.attempts + 1

    @property
    def key(self) -> str | None:
        """The idempotency key."""
        return self.envelope.key

    @property
    def deadline(self) -> float | None:
        """After this time it would not have started, in seconds since the epoch."""
        return self.envelope.deadline

    @property
    def enqueued_at(self) -> float:
        """When it was sent, by the sender's clock, in seconds since the epoch."""
        return self.envelope.enqueued_at

    @property
    def headers(self) -> Mapping[str, str]:
        """The caller's headers."""
        return self.envelope.headers

    @property
    def correlation_id(self) -> str | None:
        """What the job belongs to."""
        return self.envelope.correlation_id

    @property
    def parent_id(self) -> str | None:
        """The job that sent this one, if a job did."""
        return self.envelope.parent_id

    @property
    def tick(self) -> Tick | None:
        """The instant of the schedule that sent this job, if one did."""
        return self.envelope.tick

    @property
    def state(self) -> Any:
        """What the app's lifespan yielded; in a process of its own there is none.

        :raises NotRunning: the app has no lifespan, or this process did not enter it (TC106).
        """
        try:
            return lifespan_state.get()
        except LookupError:
            raise NotRunning(
                "this job has no state: no lifespan was entered in this process",
                fix='App(lifespan=…); in process tasks use Depends(…, scope="app")',
            ) from None

    async def cancel_requested(self) -> bool:
        """Ask the store whether a caller wants this running job cancelled (``job.cancel()``)."""
        return await self._cancel_requested(self.envelope.id)

    def completion(self, result: Any) -> Completion:
        """Make the outcome of this job's key, to be committed together with the job's effect.

        Hand it to ``taskcore.stores.sql.complete_in`` in the transaction that writes the effect. From that commit on
        the job has succeeded with this result, whatever happens to function or worker afterwards.

        :param result: what the function will return.
        :raises InvalidSetting: the job has no key (TC104).
        :raises UnencodableResult: the result does not fit the task's contract (TC304).
        """
        if self._task is None or self._held_key is None:
            raise InvalidSetting(
                f"this job of {self.task} has no key, so there is no record that its outcome could be committed to",
                fix='@app.task(key="order_id"), or .using(key=…) for one call',
            )
        packed = msgspec.Raw(self._task.contract.pack_result(result))
        outcome = encode_outcome(StoredOutcome("succeeded", packed, task=self.task))
        return IdempotencyKeys.completion(self._held_key.name, self._held_key.claim, outcome, self._held_key.window)


def current() -> Context:
    """Get the job that runs here.

    :raises NotRunning: this code does not run as part of a job (TC106).
    """
    try:
        context: Context = running.get()
    except LookupError:
        raise NotRunning(
            "current() was called outside of a job", fix="call it inside a task, or pass what you need as an argument"
        ) from None
    return context
