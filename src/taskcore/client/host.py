"""The app's side of its tasks: what they need while the app is open, and being open."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from taskcore.components import Components
from taskcore.config import Settings
from taskcore.envelope import EnvelopeCodec
from taskcore.errors import NotRunning
from taskcore.results import JobOutcome, JobStatus
from taskcore.task import Bridge, Call, Job, Task

if TYPE_CHECKING:  # imported when they are needed: see connect() and enter()
    import anyio

    from taskcore.client.client import Client
    from taskcore.client.queries import JobQueries

__all__ = ["AppHost", "SendCall", "SharedContext", "not_open", "send_nothing"]

R = TypeVar("R")


class SendCall(Protocol):
    """Sends one call."""

    def __call__(self, call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
        """Send one call."""
        ...


def send_nothing(call: Call[R]) -> Coroutine[Any, Any, Job[R]]:  # noqa: ARG001 - the verb's signature
    """Refuse to send: the app is not open.

    :raises NotRunning: always (TC106).
    """
    raise not_open()


class AppHost:
    """Sends the calls of tasks and answers for their jobs; see :class:`taskcore.task.TaskHost`.

    Tasks keep one host for as long as their app lives; client and queries are new each time the app opens.
    """

    def __init__(self, codec: EnvelopeCodec, run_blocking: Bridge) -> None:
        self.codec = codec
        self.run_blocking = run_blocking
        self.send: SendCall = send_nothing  #: the client's own verb while the app is open: one step less for each job
        self._client: Client | None = None
        self._queries: JobQueries | None = None
        self._token: Any = None
        self._pid = 0

    async def connect(
        self, tasks: Iterable[Task[..., Any]], components: Components, settings: Settings
    ) -> AsyncExitStack:
        """Connect to broker and store, in the running event loop; return what disconnects.

        :raises StoreRequired: a task needs a store and there is none (TC105).
        :raises UnsafeBroker: ``strict``, and the settings of broker or store break a guarantee (TC502).
        """
        from anyio.lowlevel import current_token  # noqa: PLC0415 - as the next

        from taskcore.client.around import ClientWithMiddleware  # noqa: PLC0415 - as the next
        from taskcore.client.client import Client  # noqa: PLC0415 - declaring tasks needs none of it, nor asyncio
        from taskcore.client.queries import JobQueries  # noqa: PLC0415 - the same
        from taskcore.middleware import any_overrides  # noqa: PLC0415 - the same
        from taskcore.preflight import refuse_if_unmet, refuse_if_unsafe  # noqa: PLC0415 - the same

        refuse_if_unmet(tasks, components)
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(components.backend)
            if components.store is not None:
                await exits.enter_async_context(components.store)
            if settings.strict:
                await refuse_if_unsafe(components.backend, components.store)
            limit = settings.send_timeout
            make = ClientWithMiddleware if any_overrides(components.middleware, "send") else Client
            client = make(components, timeout=limit, payload_limit=settings.payload_limit, source=settings.source)
            exits.push_async_callback(client.wait_closed)
            self.send, self._client, self._queries = client.send, client, JobQueries(components, timeout=limit)
            self._token, self._pid = current_token(), os.getpid()
            exits.callback(self.close)
            if components.services:
                from taskcore.services import open_services  # noqa: PLC0415 - most apps have none

                exits.push_async_callback(await open_services(components.services))
            return exits.pop_all()

    def close(self) -> None:
        """Forget the connections; they are closed, or belong to the parent of a fork."""
        self.send = send_nothing
        self._client = self._queries = self._token = None

    def require_open(self) -> None:
        """Refuse what needs a connection.

        :raises NotRunning: the app is not open (TC106).
        """
        if self._client is None:
            raise not_open()

    @property
    def client(self) -> Client:
        """The client of an open app.

        :raises NotRunning: the app is not open (TC106).
        """
        if self._client is None:
            raise not_open()
        return self._client

    @property
    def queries(self) -> JobQueries:
        """The queries of an open app.

        :raises NotRunning: the app is not open (TC106).
        """
        if self._queries is None:
            raise not_open()
        return self._queries

    # These return the coroutine of another object: each question saves one on its way.

    def outcome(self, job: Job[R], timeout: float | None) -> Coroutine[Any, Any, JobOutcome[R]]:
        """Wait for the end of a job."""
        return self.queries.outcome(job, timeout)

    def status(self, job: Job[Any]) -> Coroutine[Any, Any, JobStatus]:
        """Return where a job is now."""
        return self.queries.status(job)

    def cancel(self, job: Job[Any]) -> Coroutine[Any, Any, bool]:
        """Keep a job from starting."""
        return self.queries.cancel(job)

    @property
    def token(self) -> Any:
        """The event loop in which the app is open, as a token; None if it is not open in this process."""
        return self._token if self._pid == os.getpid() else None


class SharedContext:
    """A context that may be entered again while it is open: the first entry opens it, the last exit closes it.

    :param connect: opens everything, and returns what closes it. Not a generator: one that is still open when the
        program ends would be finalized without its event loop.
    """

    def __init__(self, connect: Callable[[], Awaitable[AsyncExitStack]]) -> None:
        self._connect = connect
        self._entries = 0
        self._opening: anyio.Event | None = None
        self._exits = AsyncExitStack()

    @property
    def is_open(self) -> bool:
        """Whether it is entered."""
        return self._entries > 0

    async def enter(self) -> None:
        """Open the context, or join it if it is open; concurrent entries wait for the first."""
        while self._opening is not None:
            await self._opening.wait()
        if self._entries == 0:
            import anyio  # noqa: PLC0415 - declaring tasks needs no event loop

            self._opening = anyio.Event()
            try:
                self._exits = await self._connect()
            finally:
                self._opening.set()
                self._opening = None
        self._entries += 1

    async def leave(self) -> None:
        """Close the context if this is the last exit."""
        self._entries -= 1
        if self._entries == 0:
            await self._exits.aclose()


def not_open() -> NotRunning:
    """Make the error of a call that needs an open app."""
    return NotRunning(
        "this app is not open, so it has no connection",
        fix="async with app: …   (or app.running() for a worker too; or task.sync in programs without a loop)",
    )
