"""Middleware: code of an application or an extension around sending, running and settling.

    class Tracing(Middleware):
        async def run(self, job, call_next):
            with span(job.envelope.task):
                return await call_next()

The first middleware of an app is the outermost. A method that is not overridden costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from taskcore.envelope import Envelope, Trail
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Outcome, Verdict
from taskcore.task import Call, Job
from taskcore.toolkit.logging import logger

__all__ = ["Middleware", "RunningJob", "SettledJob", "any_overrides", "around_commit", "around_run", "around_send"]

log = logger("taskcore.middleware")


class RunningJob(Protocol):
    """A job that a worker runs, as middleware sees it."""

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
    """A job that has ended here, and its verdict."""

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
        """Wrap the sending of calls; one job for each, in order. What it raises reaches the caller."""
        return await call_next(calls)

    async def run(
        self,
        job: RunningJob,  # noqa: ARG002 - for overriding methods
        call_next: Callable[[], Awaitable[Outcome | None]],
    ) -> Outcome | None:
        """Wrap the run of a job's function, in the event loop also if the function runs elsewhere.

        The function's error is in the outcome and is not raised; None means that the lease is lost. A job that is
        interrupted, by its time limit or by a shutdown, is cancelled here too. An error of the middleware itself is an
        error of the job.
        """
        return await call_next()

    async def commit(
        self,
        jobs: Sequence[SettledJob],  # noqa: ARG002 - for overriding methods
        call_next: Callable[[], Awaitable[None]],
    ) -> None:
        """Wrap one try to make the ends of some jobs durable. An error of the middleware itself is logged."""
        await call_next()


J = TypeVar("J", bound=RunningJob)
D = TypeVar("D", bound=SettledJob)
T = TypeVar("T")
S = TypeVar("S")

SendMany: TypeAlias = Callable[[Sequence[Call[Any]]], Awaitable[list[Job[Any]]]]
RunJob: TypeAlias = Callable[[J, T, S], Coroutine[Any, Any, Outcome | None]]
Commit: TypeAlias = Callable[[Sequence[D]], Awaitable[None]]


def any_overrides(middleware: Sequence[Middleware], method: str) -> bool:
    """Tell whether a method of some middleware does more than to call the next."""
    return bool(_overriding(middleware, method))


def around_send(middleware: Sequence[Middleware], send: SendMany) -> SendMany:
    """Put middleware around the sending of calls; ``send`` itself if none of it is concerned."""
    for one in _overriding(middleware, "send"):
        send = partial(_send, one, send)
    return send


def around_run(
    middleware: Sequence[Middleware], run: RunJob[J, T, S], failed: Callable[[J, BaseException], Outcome]
) -> RunJob[J, T, S]:
    """Put middleware around the run of a job; ``run`` itself if none of it is concerned.

    :param failed: makes the outcome of an error that a middleware raises.
    """
    for one in _overriding(middleware, "run"):
        run = partial(_run, one, run, failed)
    return run


def around_commit(middleware: Sequence[Middleware], commit: Commit[D]) -> Commit[D]:
    """Put middleware around settling; ``commit`` itself if none of it is concerned.

    A batch whose middleware fails is committed without it: committing it twice does no harm.
    """
    outer = commit
    for one in _overriding(middleware, "commit"):
        outer = partial(_commit, one, outer, commit)
    return outer


def _overriding(middleware: Sequence[Middleware], method: str) -> list[Middleware]:
    """Return the middleware that overrides a method, innermost first."""
    return [one for one in reversed(middleware) if getattr(type(one), method) is not getattr(Middleware, method)]


async def _send(one: Middleware, inner: SendMany, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
    return await one.send(calls, inner)


async def _run(
    one: Middleware, inner: RunJob[J, T, S], failed: Callable[[J, BaseException], Outcome], job: J, task: T, slot: S
) -> Outcome | None:
    try:
        return await one.run(job, partial(inner, job, task, slot))
    except BrokerUnavailable:  # before the start: the job is performed again later
        raise
    except Exception as error:  # noqa: BLE001 - the middleware's own code
        return failed(job, error)


async def _commit(one: Middleware, inner: Commit[D], commit: Commit[D], batch: Sequence[D]) -> None:
    try:
        await one.commit(batch, partial(inner, batch))
    except BrokerUnavailable:
        raise
    except Exception:
        log.exception("middleware failed around settling; the jobs are settled without it")
        await commit(batch)
