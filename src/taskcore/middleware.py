"""Middleware: code of an application or an extension around sending, running and settling.

    class Tracing(Middleware):
        async def run(self, job, call_next):
            with span(job.envelope.task):
                return await call_next()

The first middleware of an app is the outermost. A method that is not overridden costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from taskcore.envelope import Envelope, Trail
from taskcore.lifecycle import Outcome, Verdict
from taskcore.task import Call, Job

__all__ = ["Middleware", "RunningJob", "SettledJob", "overriding"]


class RunningJob(Protocol):
    """A job in a worker's hands, as middleware sees it."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    @property
    def envelope(self) -> Envelope:
        """The job as it was sent."""
        ...

    @property
    def trail(self) -> Trail:
        """What happened to it before."""
        ...


class SettledJob(Protocol):
    """A job that has ended here, and what the broker is told about it."""

    @property
    def job(self) -> RunningJob:
        """Which job."""
        ...

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        ...

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        ...


class Middleware:
    """The methods that may be overridden; each calls ``call_next`` once and returns its answer, or another one."""

    async def send(
        self, calls: Sequence[Call[Any]], call_next: Callable[[Sequence[Call[Any]]], Awaitable[list[Job[Any]]]]
    ) -> list[Job[Any]]:
        """Around the sending of calls; one job for each, in order. What it raises reaches the caller."""
        return await call_next(calls)

    async def run(
        self,
        job: RunningJob,  # noqa: ARG002 - for overriding methods
        call_next: Callable[[], Awaitable[Outcome | None]],
    ) -> Outcome | None:
        """Around the run of a job's function, in the event loop also if the function runs elsewhere.

        The function's error is in the outcome and is not raised; None means that the lease is lost. A job that is
        interrupted, by its time limit or by a shutdown, is cancelled here too. An error of the middleware itself is an
        error of the job.
        """
        return await call_next()

    async def settle(
        self,
        jobs: Sequence[SettledJob],  # noqa: ARG002 - for overriding methods
        call_next: Callable[[], Awaitable[None]],
    ) -> None:
        """Around one try to make the ends of some jobs durable. An error of the middleware itself is logged."""
        await call_next()


def overriding(middleware: Sequence[Middleware], method: str) -> list[Middleware]:
    """Those that override a method, outermost first."""
    return [one for one in middleware if getattr(type(one), method) is not getattr(Middleware, method)]
