"""App: wires a URL to backend, store, client and worker.

app = App("memory://")                    the only line that names a broker
async with app: …                         client only
async with app.running(): …               client and worker in this process
await app.run_worker()                    worker until SIGTERM or SIGINT
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from taskcore.adapters import has_store, open_backend, open_store
from taskcore.backend import Backend, Features, QueueStats
from taskcore.client import Client, store_required
from taskcore.client.portal import Portal
from taskcore.client.queries import JobQueries
from taskcore.config import Settings, load
from taskcore.deadletter import DeadLetters
from taskcore.errors import InvalidSetting, NotRunning
from taskcore.observe import Event, Events, ObservedBackend
from taskcore.preflight import refuse_if_unsafe, warn_if_unsafe
from taskcore.results import JobOutcome
from taskcore.router import Router, TaskSpec
from taskcore.store import Store
from taskcore.task import Call, Job, JobStatus, SyncJob, Task
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.urls import mask_url
from taskcore.worker import Worker
from taskcore.worker.runners import Executors, require_processes
from taskcore.worker.signals import stop_on_signals

__all__ = ["App", "Components", "SyncApp"]

NO_STORE = "none"  #: the setting that means: no store, although the broker has one

R = TypeVar("R")
T = TypeVar("T")


class Components(NamedTuple):
    """What an app is made of. ``clock`` gives seconds since the epoch."""

    backend: Backend
    store: Store | None
    events: Events
    clock: Callable[[], float]


class App(Router):
    """Background tasks on one broker.

    :param url: the broker: ``memory://``, ``redis://…``, ``amqp://…``, ``nats://…``; or a backend object. Without one,
        the configuration says.
    :param store: where results and keys live, if not in the broker: a URL, a store object, or ``"none"``: nowhere.
    :param clock: seconds since the epoch; for tests.
    :param settings: any field of :class:`taskcore.config.Settings`.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    :raises AdapterMissing: the URL's adapter is not installed; the text has the install command (TC102).
    :raises InvalidSetting: a setting that does not exist or cannot be meant (TC104).
    """

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        store: str | Store | None = None,
        clock: Callable[[], float] = time.time,
        **settings: Any,
    ) -> None:
        super().__init__()
        given = {"url": url, "store": store, **settings}
        texts = {name: value for name, value in given.items() if value is not None and not _is_adapter(name, value)}
        loaded = load(arguments=texts)
        self.settings: Settings = loaded.settings
        objects = {name: "argument" for name in ("url", "store") if _is_adapter(name, given[name] or "")}
        self.sources: Mapping[str, str] = {**loaded.sources, **objects}
        self._clock = clock
        self._events = Events()
        self._backend_given = None if url is None or isinstance(url, str) else url
        self._store_given = None if store is None or isinstance(store, str) else store
        self._portal = Portal(self)
        self._token: anyio.lowlevel.EventLoopToken | None = None
        self._opening: anyio.Event | None = None
        self._reset()

    @classmethod
    def from_config(cls, **settings: Any) -> Self:
        """The app that the configuration describes: ``TASKCORE_*``, ``taskcore.toml``, ``[tool.taskcore]``, defaults.

        :param settings: what is to win over the configuration.
        """
        return cls(**settings)

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<App {mask_url(self.settings.url)} {len(self)} tasks, {state}>"

    # ── tasks ──

    def include(self, router: Router) -> None:
        """Take in the tasks that a library declared on a router.

        :raises DuplicateTask: a name is taken (TC306).
        """
        for task, declared in router:
            self.add(task, declared)

    def add(self, task: Task[..., Any], declared: TaskSpec) -> None:
        """Take one task in; its jobs are sent through this app from now on."""
        super().add(task, declared)
        settings = self.settings
        options = declared.complete(
            retry=settings.retry,
            key_window=settings.key_window,
            keep_result=settings.keep_result if self._store is not None else None,
            park_for=settings.park_for,
        )
        task.bind(self, options)

    # ── opening and closing ──

    async def __aenter__(self) -> Self:
        """Connect; entering again while open is allowed and counts.

        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        :raises StoreRequired: a task needs a store and there is none (TC105).
        :raises UnsafeBroker: ``strict``, and the settings of broker or store break the contract (TC502).
        """
        if self._pid != os.getpid():
            self._reset()
        while self._opening is not None:
            await self._opening.wait()
        if self._open == 0:
            self._opening = anyio.Event()
            try:
                await self._connect()
            finally:
                self._opening.set()
                self._opening = None
        self._open += 1
        return self

    async def _connect(self) -> None:
        self._check_needs()
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._backend)
            if self._store is not None:
                await exits.enter_async_context(self._store)
            if self.settings.strict:
                await refuse_if_unsafe(self._backend, self._store)
            exits.push_async_callback(self._client_unopened.wait_closed)
            self._exits = exits.pop_all()
        self._token = anyio.lowlevel.current_token()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect when the last one leaves."""
        self._open -= 1
        if self._open == 0:
            self._token = None
            await self._exits.aclose()

    @asynccontextmanager
    async def running(
        self, *, queues: Sequence[str] | None = None, concurrency: int | None = None, grace: float | None = None
    ) -> AsyncIterator[Self]:
        """Client and worker in this process; at the end running jobs get their grace.

        :param queues: where the worker looks, most urgent first; default: every queue of the app's tasks.
        :param concurrency: how many jobs run at once.
        :param grace: seconds that running jobs have to finish at the end.
        """
        failure: Exception | None = None
        async with self:
            worker = await self._make_worker(queues, concurrency, grace)
            with unwrap_single():
                async with anyio.create_task_group() as group:
                    ended = anyio.Event()
                    await group.start(_work, worker, ended)
                    try:
                        yield self
                    except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                        failure = error
                    finally:
                        worker.stop()
                        with anyio.CancelScope(shield=True):
                            await ended.wait()
            if failure is not None:
                raise failure

    async def run_worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        grace: float | None = None,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until SIGTERM or SIGINT.

        First signal: nothing new starts, running jobs get their grace, the rest is given back. Second: running jobs are
        interrupted and given back. Third: the process ends.

        Parameters as :meth:`running`; ``task_status`` is for ``await group.start(app.run_worker)``, which returns when
        the worker is ready.
        """
        async with self:
            worker = await self._make_worker(queues, concurrency, grace)
            with unwrap_single():
                async with anyio.create_task_group() as group:
                    await group.start(stop_on_signals, worker, self.settings.grace if grace is None else grace)
                    await worker.run(task_status=task_status)
                    group.cancel_scope.cancel()

    async def drain(self, *queues: str, timeout: float | None = None) -> None:
        """Wait until the queues hold no job that is ready, running or scheduled; for tests and scripts.

        Where ``features.counts`` is absent, jobs that are scheduled (retries, too) or that other programs hold are not
        seen: ask for the jobs' outcomes instead.

        :param queues: default: every queue of the app's tasks.
        :param timeout: seconds to wait for each queue; None waits as long as it takes.
        :raises TimeoutError: a queue was not empty by then; the text says what it holds.
        """
        pause = 0.005
        for queue in queues or self._queues():
            began = anyio.current_time()
            while True:
                stats = await self.stats(queue)
                if not stats.ready + stats.leased + stats.scheduled:
                    break
                if timeout is not None and anyio.current_time() - began >= timeout:
                    raise TimeoutError(
                        f'queue "{queue}" is not empty after {timeout:g} s: '
                        f"{stats.ready} ready, {stats.leased} running, {stats.scheduled} scheduled"
                    )
                await anyio.sleep(pause)
                pause = min(pause * 1.5, 0.1)

    # ── sending and asking ──

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Send many calls in few batches; one job for each, in order.

        :raises EnqueueRefused, EnqueueUncertain, KeyConflict: some were not sent; the error's ``jobs`` has the others.
        """
        return await self._client.send_many(list(calls))

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call, as ``task.enqueue`` does."""
        return await self._client.send(call)

    async def outcome(self, job: Job[R], timeout: float | None = None) -> JobOutcome[R]:
        """How a job ended, as ``job.outcome`` does."""
        return await self._queries.outcome(job, timeout)

    async def status(self, job: Job[Any]) -> JobStatus:
        """Where a job is, as ``job.status`` does."""
        return await self._queries.status(job)

    async def cancel(self, job: Job[Any]) -> bool:
        """Keep a job from starting, as ``job.cancel`` does."""
        return await self._queries.cancel(job)

    async def stats(self, queue: str = "default") -> QueueStats:
        """How full a queue is."""
        return await self._opened(self._backend).admin.stats(queue)

    async def purge(self, queue: str) -> int:
        """Forget all jobs of a queue that have not started; returns how many.

        Where ``features.counts`` is absent, scheduled ones (retries, too) are out of reach: they come when they are
        due, and a warning in the log says so.
        """
        return await self._opened(self._backend).admin.purge(queue)

    @property
    def features(self) -> Features:
        """What this app's broker does by itself, what is emulated, what cannot be had."""
        return self._backend.features

    @property
    def dead_letters(self) -> DeadLetters:
        """Read, replay, drop and count dead letters."""
        return DeadLetters(self._opened(self._backend).admin, self._clock)

    # ── blocking ──

    @property
    def sync(self) -> SyncApp:
        """The same, blocking, for programs without an event loop."""
        return SyncApp(self, self._portal)

    def run_blocking(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function where the app is open, or in a thread of the app's own, and wait for it.

        :raises NotRunning: called in an event loop, which it would block (TC106).
        """
        here = self._token if self._pid == os.getpid() else None
        return self._portal.run(here, function, *args)

    # ── watching ──

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each event of :mod:`taskcore.observe` has happened."""
        return self._events.counters

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[Event], None]:
        """Call a function at every event; use it as a decorator. It must be quick and is called in the event loop."""
        return self._events.listen(listener)

    # ── inside ──

    @property
    def components(self) -> Components:
        """What this app is made of, for the test kit and for tools."""
        return Components(self._backend, self._store, self._events, self._clock)

    def _reset(self) -> None:
        """At the beginning, and in the child of a fork, where the parent's connections and loop are dead."""
        self._pid = os.getpid()
        self._open = 0
        self._opening = None
        self._exits = AsyncExitStack()
        self._token = None
        self._build_adapters()

    def _build_adapters(self) -> None:
        """Build backend and store; nothing is connected yet."""
        url, store = self.settings.url, self.settings.store
        self._backend: Backend = ObservedBackend(self._backend_given or open_backend(url), self._events)
        self._store: Store | None = self._store_given
        if self._store is None and store not in (None, NO_STORE):
            self._store = open_store(store)
        elif self._store is None and store is None and self._backend_given is None and has_store(url):
            self._store = open_store(url)
        settings = self.settings
        self._client_unopened = Client(
            self._backend,
            self._store,
            self._events,
            clock=self._clock,
            timeout=settings.send_timeout,
            payload_limit=settings.payload_limit,
            source=settings.source,
        )
        self._queries_unopened = JobQueries(self._backend, self._store, self._events, timeout=settings.send_timeout)

    @property
    def _client(self) -> Client:
        return self._opened(self._client_unopened)

    @property
    def _queries(self) -> JobQueries:
        return self._opened(self._queries_unopened)

    def _opened(self, part: T) -> T:
        if self._open == 0:
            raise NotRunning(
                "this app is not open, so it has no connection",
                fix="async with app: …   (or app.running() for a worker too; or task.sync in programs without a loop)",
            )
        return part

    def _check_needs(self) -> None:
        """What a task needs and the app cannot give is refused now, not when the first job meets it."""
        if self._store is not None:
            return
        for task, declared in self:
            if declared.key is not None:
                raise store_required(f"{task.name} has an idempotency key ({task.contract.where})")
            if isinstance(declared.keep_result, float | int):
                raise store_required(f"{task.name} keeps its results ({task.contract.where})")
            if isinstance(declared.crashes, int) and self._backend.features.redeliveries == "absent":
                what = f"{task.name} limits its crashes ({task.contract.where}), which this broker does not count"
                raise store_required(what)

    async def _make_worker(self, queues: Sequence[str] | None, concurrency: int | None, grace: float | None) -> Worker:
        """A worker, warned of what its broker and store do not keep; a strict app would not have come so far."""
        worker = self._worker(queues, concurrency, grace)
        if not self.settings.strict:
            await warn_if_unsafe(self._backend, self._store)
        return worker

    def _worker(self, queues: Sequence[str] | None, concurrency: int | None, grace: float | None) -> Worker:
        settings = self.settings
        names = tuple(queues or settings.queues or self._queues())
        limit = settings.concurrency if concurrency is None else concurrency
        if not names or limit < 1:
            raise InvalidSetting(
                "this worker has nothing to do",
                facts=[f"queues: {', '.join(names) or 'none, because the app has no tasks'}", f"concurrency: {limit}"],
                fix="import the modules that declare the tasks, or name queues; run at least one job at once",
            )
        require_processes(self.tasks.values())
        return Worker(
            self.tasks,
            self._backend,
            self._store,
            self._events,
            queues=names,
            concurrency=limit,
            executors=Executors(threads=settings.threads, processes=settings.processes or os.cpu_count() or 1),
            lease=settings.lease,
            grace=settings.grace if grace is None else grace,
            park_for=settings.park_for,
            keep_result=settings.keep_result,
            clock=self._clock,
            name=settings.source or f"{socket.gethostname()}:{os.getpid()}",
        )

    def _queues(self) -> list[str]:
        """In the order in which the tasks were declared; earlier queues are more urgent."""
        return list(dict.fromkeys(task.options.queue for task in self.tasks.values()))


class SyncApp:
    """``app.sync``: blocking forms of what an app can do."""

    def __init__(self, app: App, portal: Portal) -> None:
        self._app = app
        self._portal = portal

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[SyncJob[R]]:
        """As :meth:`taskcore.App.enqueue_many`, blocking."""

        async def send() -> list[Job[R]]:
            return await self._app.enqueue_many(calls)

        return [SyncJob(job) for job in self._app.run_blocking(send)]

    @contextmanager
    def running(self, *, queues: Sequence[str] | None = None, concurrency: int | None = None) -> Iterator[App]:
        """As :meth:`taskcore.App.running`: a worker in the background of a program without an event loop."""
        leave = self._portal.enter_context(lambda: self._app.running(queues=queues, concurrency=concurrency))
        try:
            yield self._app
        finally:
            leave()


async def _work(worker: Worker, ended: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    try:
        await worker.run(task_status=task_status)
    finally:
        ended.set()


def _is_adapter(name: str, value: object) -> bool:
    return name in ("url", "store") and not isinstance(value, str)
