"""The app's side of its tasks: what they need while the app is open, and being open."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from taskcore.components import Components
from taskcore.config import Settings
from taskcore.envelope import EnvelopeCodec, check_name
from taskcore.errors import InvalidArguments, NotRunning
from taskcore.results import JobOutcome, JobStatus
from taskcore.task import Bridge, Call, Job, Task
from taskcore.toolkit.app_loop import AppLoop, Openings

if TYPE_CHECKING:  # imported when they are needed: see _connect()
    from taskcore.client.client import Client
    from taskcore.client.queries import JobQueries

__all__ = ["AppHost", "EnvelopeCodec", "SendCall", "check_name", "checked_calls", "not_open", "send_nothing"]

R = TypeVar("R")
T = TypeVar("T")


class SendCall(Protocol):
    """Sends one call."""

    def __call__(self, call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
        """Send one call."""
        ...


def send_nothing(call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
    """Refuse to send: the app is not open.

    :raises NotRunning: always (TC106).
    """
    raise not_open(f"the app of {call.task.name}")


def checked_calls(calls: Iterable[Call[R]]) -> list[Call[R]]:
    """Return the calls as a list.

    :raises InvalidArguments: there is something else among them (TC302).
    """
    found: list[Any]
    try:
        found = list(calls)
    except TypeError:
        found = [calls]
    if not set(map(type, found)) <= {Call}:  # no loop of ours: many calls are sent at once
        wrong = next(call for call in found if type(call) is not Call)
        raise InvalidArguments(
            "only calls can be sent; nothing was sent",
            facts=[f"one of them is of type {type(wrong).__name__}"],
            fix='make calls: app.enqueue_many([task.call("Ada"), task.call("Bob")])',
        )
    return found


class AppHost:
    """Sends the calls of tasks and answers for their jobs; see :class:`taskcore.task.TaskHost`.

    Tasks keep one host for as long as their app lives; client and queries are new each time the app opens.
    """

    def __init__(self, codec: EnvelopeCodec, run_blocking: Bridge) -> None:
        self.codec = codec
        self.run_blocking = run_blocking
        self.begin_workflow: Callable[..., Any]  #: the app's verb, for calls that begin a chain
        self.send: SendCall = send_nothing  #: the client's own verb while the app is open: one step less for each job
        self._client: Client | None = None
        self._queries: JobQueries | None = None
        self.app_loop = AppLoop()  #: the one in which the app is open

    def make_openings(
        self,
        tasks: Iterable[Task[..., Any]],
        settings: Settings,
        components: Callable[[], Components],
        renew: Callable[[], None],
    ) -> Openings:
        """Make what opens the app; the components of the moment are connected.

        :param renew: makes the components anew, after their loop has ended or in the child of a fork.
        """
        return Openings(lambda app_loop: self._connect(tasks, components(), settings, app_loop), renew=renew)

    async def _connect(
        self, tasks: Iterable[Task[..., Any]], components: Components, settings: Settings, app_loop: AppLoop
    ) -> AsyncExitStack:
        """Connect to broker and store, in the running event loop; return what disconnects.

        :param app_loop: the running event loop.
        :raises StoreRequired: a task needs a store and there is none (TC105).
        :raises UnsafeBroker: ``strict``, and the settings of broker or store break a guarantee (TC502).
        """
        from taskcore.client.around import make_client  # noqa: PLC0415 - declaring tasks needs none of it, nor asyncio
        from taskcore.client.queries import JobQueries  # noqa: PLC0415 - the same
        from taskcore.preflight import refuse_if_unmet, refuse_if_unsafe  # noqa: PLC0415 - the same

        refuse_if_unmet(tasks, components)
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(components.backend)
            if components.store is not None:
                await exits.enter_async_context(components.store)
            if settings.strict:
                await refuse_if_unsafe(components.backend, components.store)
            limit = settings.send_timeout
            client = make_client(
                components,
                timeout=limit,
                payload_limit=settings.payload_limit,
                source=settings.source,
                app_loop=app_loop,
            )
            exits.push_async_callback(client.wait_closed)
            client.open_queues(tuple(dict.fromkeys(task.spec.queue for task in tasks)))
            queries = JobQueries(components, timeout=limit)
            exits.push_async_callback(queries.wait_closed)
            self.send, self._client, self._queries, self.app_loop = client.send, client, queries, app_loop
            exits.callback(self.close, client)
            if components.services:
                from taskcore.services import open_services  # noqa: PLC0415 - most apps have none

                exits.push_async_callback(await open_services(components.services))
            return exits.pop_all()

    def close(self, client: Client | None = None) -> None:
        """Forget the connections; they are closed, or belong to a loop that has ended, or to the parent of a fork.

        :param client: forget its connections only: what a loop that has ended left may end when the app is open anew.
        """
        if client is None or client is self._client:
            self.send = send_nothing
            self._client = self._queries = None
            self.app_loop = AppLoop()

    def require_open(self) -> None:
        """Refuse what needs a connection.

        :raises NotRunning: the app is not open, or in another loop (TC106).
        """
        if self._client is None:
            raise not_open()
        self.app_loop.require_here("its connections belong there", "use app.sync in a thread, or open an app here")

    def require_here_to_work(self) -> None:
        """Refuse to run a worker in another loop than that of its connections.

        :raises NotRunning: the app is open in another loop (TC106).
        """
        self.app_loop.require_here(
            "a worker runs where its connections are",
            "open the app here first; after blocking calls (.sync) use: with app.sync.running(): …",
        )

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

    async def ask(self, question: Callable[[JobQueries], Coroutine[Any, Any, T]]) -> T:
        """Ask a question where the app is open."""
        if self.app_loop.is_here:
            return await question(self.queries)
        return await self.app_loop.run(question, self.queries)

    # These return the coroutine of another object: each question saves one on its way.

    def outcome(self, job: Job[R], timeout: float | None) -> Coroutine[Any, Any, JobOutcome[R]]:
        """Wait for the end of a job."""
        if self.app_loop.running() is self.app_loop.loop:
            return self.queries.outcome(job, timeout)
        return self.ask(lambda queries: queries.outcome(job, timeout))

    def status(self, job: Job[Any]) -> Coroutine[Any, Any, JobStatus]:
        """Return where a job is now."""
        return self.ask(lambda queries: queries.status(job))

    def cancel(self, job: Job[Any]) -> Coroutine[Any, Any, bool]:
        """Keep a job from starting."""
        return self.ask(lambda queries: queries.cancel(job))

    @property
    def token(self) -> Any:
        """The event loop in which the app is open, as a token; None if it is not open in this process.

        :raises NotRunning: it is open in a loop that does not run (TC106).
        """
        if self._client is None or self.app_loop.has_ended:
            return None
        if (token := self.app_loop.token) is not None:
            self.app_loop.require_running()
        return token


def not_open(app: str = "this app") -> NotRunning:
    """Make the error of a call that needs an open app."""
    return NotRunning(
        f"{app} is not open, so it has no connection",
        fix="async with app: …   (or app.running() for a worker too; or task.sync in programs without a loop)",
    )
