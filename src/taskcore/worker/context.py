"""``current()``: what a running task can ask about itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar

from taskcore.envelope import Envelope, Trail
from taskcore.errors import NotRunning

__all__ = ["Context", "current", "running"]


class Context:
    """The job that runs here. Reading it costs nothing until you ask."""

    __slots__ = ("_asked", "_envelope", "_trail", "crashes", "fence", "queue")

    def __init__(
        self,
        envelope: Envelope,
        trail: Trail,
        queue: str,
        crashes: int,
        fence: int,
        asked: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._envelope = envelope
        self._trail = trail
        self._asked = asked
        self.queue = queue
        """The queue that the job came from."""
        self.crashes = crashes
        """How many starts of this job are suspected to have killed their process."""
        self.fence = fence
        """A number that grows with every new holder of the job, or of its key.

        Hand it to systems that can refuse an older one (C7)."""

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._envelope.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._envelope.task

    @property
    def attempt(self) -> int:
        """1 for the first attempt; only attempts that ended in an error count."""
        return self._trail.attempts + 1

    @property
    def trail(self) -> Trail:
        """What happened to the job so far, with all errors."""
        return self._trail

    @property
    def key(self) -> str | None:
        """The idempotency key."""
        return self._envelope.key

    @property
    def deadline(self) -> float | None:
        """After this time it would not have started, in seconds since the epoch."""
        return self._envelope.deadline

    @property
    def enqueued_at(self) -> float:
        """When it was sent, by the sender's clock, in seconds since the epoch."""
        return self._envelope.enqueued_at

    @property
    def headers(self) -> Mapping[str, str]:
        """The caller's headers."""
        return self._envelope.headers

    @property
    def correlation_id(self) -> str | None:
        """What the job belongs to."""
        return self._envelope.correlation_id

    async def cancel_requested(self) -> bool:
        """Whether somebody called ``job.cancel()`` while this job runs; asks the store."""
        return await self._asked(self._envelope.id)


running: ContextVar[Context] = ContextVar("taskcore.job")


def current() -> Context:
    """The job that runs here.

    :raises NotRunning: this code does not run as part of a job (TC106).
    """
    try:
        return running.get()
    except LookupError:
        raise NotRunning(
            "current() was called outside of a job", fix="call it inside a task, or pass what you need as an argument"
        ) from None
