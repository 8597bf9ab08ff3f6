"""App: builds the components from URLs, opens and closes them.

app = App("memory://")                    the only line that names a broker
async with app: …                         client only
async with app.running(): …               client and worker in this process
await app.run_worker()                    worker until SIGTERM or SIGINT
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from taskcore.adapters import EVENTS, BackendOrURL, Layers, Services, StoreOrURL, build_components, check_objects
from taskcore.backend import Features, QueueStats
from taskcore.client.host import AppHost, EnvelopeCodec, check_name, checked_calls
from taskcore.config import AppSettings, Duration, Settings, hint_at_unused_variables, load, show
from taskcore.observe import Event, Events, WorkerStatus
from taskcore.router import Router, any_task, tasks_of
from taskcore.task import Call, Job, Task

if TYPE_CHECKING:  # imported when they are needed: see sync and dead_letters
    from anyio.abc import TaskStatus

    from taskcore.blocking import Portal, SyncApp
    from taskcore.deadletter import DeadLetterHook, DeadLetters
    from taskcore.schedules import Declarations, Schedules
    from taskcore.worker.hosting import Attend
    from taskcore.workflows import Batch, BatchOptions, Workflow, WorkflowOptions, Workflows

__all__ = ["App"]

R = TypeVar("R")
T = TypeVar("T")


class App(Router):
    """Background tasks on one broker.

    :param url: the broker: ``memory://``, ``redis://…``, ``amqp://…``, ``nats://…``; or a backend object. Default: the
        configuration's.
    :param store: where results and keys live, if not in the broker: a URL, a store object, or ``"none"``: nowhere.
    :param clock: seconds since the epoch; for tests.
    :param codec: makes and reads the bytes of envelopes, for example to sign or to encrypt them.
    :param middleware: code around sending, running and settling; the first is the outermost.
    :param lifespan: takes the app and is entered around each of its workers; what it yields is ``current().state``.
    :param settings: any field of :class:`taskcore.config.Settings`.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    :raises AdapterMissing: the URL's adapter is not installed; the text has the install command (TC102).
    :raises InvalidSetting: a setting that does not exist or has an impossible value (TC104).
    """

    def __init__(
        self,
        url: BackendOrURL | None = None,
        *,
        store: StoreOrURL | None = None,
        clock: Callable[[], float] = time.time,
        codec: EnvelopeCodec | None = None,
        middleware: Layers = (),
        lifespan: Callable[[App], AbstractAsyncContextManager[Any]] | None = None,
        **settings: Unpack[AppSettings],
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {"url": url, "store": store}
        urls = {name: value for name, value in given.items() if value is None or isinstance(value, str)}
        adapters = {name: value for name, value in given.items() if name not in urls}
        loaded = load(arguments={**urls, **settings})
        self.settings: Settings = loaded.settings
        self.sources: Mapping[str, str] = {**loaded.sources, **dict.fromkeys(adapters, "argument")}
        self._events = Events()
        layers = check_objects(adapters, clock=clock, codec=codec, middleware=middleware, lifespan=lifespan)
        self._host = AppHost(codec or EnvelopeCodec(), self.run_blocking)
        self._host.begin_workflow = self.workflow
        self._lifespan = None if lifespan is None else partial(lifespan, self)
        #: Functions that stand in for dependencies in workers of this process: ``app.overrides[get_db] = fake_db``.
        self.overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        objects = {**adapters, "middleware": layers, "lifespan": self._lifespan, "overrides": self.overrides}
        objects |= {"services": list[Any](), "needs": list[str]()}  # features add theirs to the components
        self._build = partial(build_components, self.settings, self._events, clock, self._host.codec, **objects)
        self._reset()
        self._openings = self._host.make_openings(self, self.settings, lambda: self.components, renew=self._reset)

    @classmethod
    def from_config(cls, **settings: Unpack[AppSettings]) -> Self:
        """Make the app of the configuration: ``TASKCORE_*``, ``taskcore.toml``, ``[tool.taskcore]``, defaults.

        :param settings: these win over the configuration.
        """
        return cls(**settings)

    def __repr__(self) -> str:
        shown, state = show("url", self.settings.url), "open" if self._openings.is_open else "closed"
        return f"<App {shown} {len(self)} tasks, {state}>"

    #: Hear what happens to jobs, from any program: ``async with app.events(kinds=["job.buried"]) as events: …``.
    events = EVENTS

    # ── tasks ──

    def include(self, router: Router) -> None:
        """Take in the tasks that a library declared on a router.

        :raises DuplicateTask: a name is taken (TC306).
        """
        for task in tasks_of(router):
            self.add(task)

    def add(self, task: Task[..., Any]) -> None:
        """Take one task in; from now on this app sends its jobs."""
        super().add(task)
        task.bind(self._host, task.spec.complete(self.settings, has_store=self.components.store is not None))

    # ── opening and closing ──

    async def __aenter__(self) -> Self:
        """Connect. An open app may be entered again; the last one to leave disconnects.

        It may be entered in other event loops too, while the first one runs: their calls are carried there.

        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        :raises NotRunning: it is open in an event loop that does not run, or cannot be reached (TC106).
        :raises StoreRequired: a task needs a store and there is none (TC105).
        :raises UnsafeBroker: ``strict``, and the settings of broker or store break a guarantee (TC502).
        """
        if not self._openings.is_open:
            hint_at_unused_variables(self.sources)
        await self._openings.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openings.leave()

    @asynccontextmanager
    async def running(
        self,
        *,
        queues: Sequence[str] | str | None = None,
        concurrency: int | None = None,
        grace: Duration | None = None,
        queue_limits: Mapping[str, int] | str | None = None,
    ) -> AsyncIterator[Self]:
        """Run client and worker in this process; at the end running jobs get their grace.

        :param queues: where the worker looks, most urgent first; default: every queue of the app's tasks.
        :param concurrency: how many jobs run at once.
        :param grace: how long running jobs have to finish at the end.
        :param queue_limits: how many jobs of a queue run at once, such as ``{"mail": 5}``; they do not count against
            ``concurrency``, which the other queues share.
        """
        from taskcore.worker.hosting import WorkerChoice, working  # noqa: PLC0415 - clients need no worker

        choice = WorkerChoice(queues, concurrency, grace, queue_limits, self.worker_services())
        async with self:
            self._host.require_here_to_work()
            async with working(self.components, self.settings, self._tasks, choice):
                yield self

    async def run_worker(
        self,
        *,
        queues: Sequence[str] | str | None = None,
        concurrency: int | None = None,
        grace: Duration | None = None,
        queue_limits: Mapping[str, int] | str | None = None,
        task_status: TaskStatus[None] | None = None,
        attend: Attend | None = None,
    ) -> None:
        """Run a worker until SIGTERM or SIGINT.

        First signal: nothing new starts, running jobs get their grace, the rest is given back. Second: running jobs are
        interrupted and given back. Third: the process ends.

        Parameters as :meth:`running`; ``task_status`` is for ``await group.start(app.run_worker)``, which returns when
        the worker is ready. ``attend`` is called with the worker and its grace, and stops it instead of signals.
        """
        from taskcore.worker.hosting import WorkerChoice, work_until_signalled  # noqa: PLC0415 - clients need no worker

        choice = WorkerChoice(queues, concurrency, grace, queue_limits, self.worker_services())
        async with self:
            self._host.require_here_to_work()
            await work_until_signalled(self.components, self.settings, self._tasks, choice, task_status, attend)

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """Enter the app's lifespan in a program that is no worker, and get what it yields."""
        return nullcontext() if self._lifespan is None else self._lifespan()

    async def drain(self, *queues: str, timeout: Duration | None = None) -> None:
        """Wait until the queues hold no job that is ready, running or scheduled; for tests and scripts.

        Where ``features.counts`` is absent, scheduled jobs (retries, too) and jobs that other programs hold are not
        counted: ask for the jobs' outcomes instead.

        :param queues: default: every queue of the app's tasks.
        :param timeout: how long to wait for each queue; None sets no limit.
        :raises TimeoutError: a queue was not empty by then; the text says what it holds.
        """
        names = [check_name("queue", queue) for queue in queues or dict.fromkeys(task.spec.queue for task in self)]
        await self._host.ask(lambda queries: import_module("taskcore.waits").drain(queries, names, timeout))

    # ── sending and asking ──

    def job(self, id: str, *, queue: str | None = None) -> Job[object]:
        """Make the handle of a job of any task, to ask for its status and outcome, and to cancel it.

        A result is plain JSON data; ``task.job(id)`` gives it typed.

        :param queue: where the job was sent, if it is known; else all queues are asked.
        :raises InvalidSetting: the id cannot be one (TC104).
        :raises InvalidName: the queue's name cannot travel (TC308).
        """
        return self._any_task.job(id, queue=queue)

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Send many calls in few batches; return one job for each, in order.

        :raises EnqueueRefused, EnqueueUncertain, KeyConflict: some were not sent; the error's ``jobs`` has the others.
        """
        return await self._host.client.send_many(checked_calls(calls))

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call, as ``task.enqueue`` does."""
        return await self._host.client.send(checked_calls([call])[0])

    async def stats(self, queue: str = "default") -> QueueStats:
        """Count the jobs of a queue."""
        name = check_name("queue", queue)
        return await self._host.ask(lambda queries: queries.stats(name))

    async def purge(self, queue: str) -> int:
        """Delete all jobs of a queue that have not started; return how many.

        Where ``features.counts`` is absent, scheduled jobs (retries, too) are out of reach: they come when they are
        due, and a warning in the log says so.
        """
        name = check_name("queue", queue)
        return await self._host.ask(lambda queries: queries.admin.purge(name))

    async def workers(self) -> Sequence[WorkerStatus]:
        """Read which workers live and what they do, as each said in the store a few seconds ago.

        :raises StoreRequired: the app has no store (TC105).
        """
        read = import_module("taskcore.roster").read_workers
        found: Sequence[WorkerStatus] = await self._host.ask(lambda _: read(self.components.store))
        return found

    @property
    def features(self) -> Features:
        """What this app's broker does by itself, what is emulated, what is absent."""
        return self.components.backend.features

    @property
    def dead_letters(self) -> DeadLetters:
        """Read, replay, drop and count dead letters."""
        from taskcore.deadletter import DeadLetters  # noqa: PLC0415 - most programs read no dead letters

        self._host.require_open()
        return DeadLetters(self.components)

    # ── schedules and workflows ──

    @cached_property
    def schedule(self) -> Declarations:
        """Declare schedules in code: ``@app.schedule("nightly", cron="30 2 * * *")`` on a task, or with a call."""
        from taskcore.schedules import Declarations  # noqa: PLC0415 - many programs have no schedules

        return Declarations(self._host, self.settings, self._tasks, lambda: self.components)

    @property
    def schedules(self) -> Schedules:
        """Put, read, pause, remove and fire schedules while the program runs."""
        return self.schedule.schedules

    def workflow(self, name: str, **options: Unpack[WorkflowOptions]) -> Workflow:
        """Begin a workflow: add steps to it, then submit it."""
        return self.workflows.begin(name, options)

    def batch(self, name: str, **options: Unpack[BatchOptions]) -> Batch:
        """Make a batch: ``async with app.batch("import") as batch: await batch.add(task.call(…))``."""
        return self.workflows.batch(name, options)

    @property
    def workflows(self) -> Workflows:
        """Ask for workflows that were sent."""
        from taskcore.workflows import Workflows  # noqa: PLC0415 - many programs have no workflows

        return Workflows(self._host, self.settings, self._tasks, lambda: self.components)

    def worker_services(self) -> Services:
        """Return the parts that a worker of this app runs beside its jobs; for the test kit and for tools."""
        chosen = self.settings.schedules
        wanted = "schedule" in self.__dict__ if chosen is None else chosen
        return [self.schedule.scheduler()] if wanted else []

    # ── blocking ──

    @property
    def sync(self) -> SyncApp[Self]:
        """The same verbs, blocking, for programs without an event loop."""
        from taskcore.blocking import SyncApp  # noqa: PLC0415 - most programs make no blocking calls

        return SyncApp(self, self._portal)

    def run_blocking(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function where the app is open, or in a thread of the app's own, and wait for it.

        :raises NotRunning: called in an event loop, which it would block (TC106).
        """
        return self._portal.run(function, *args)

    @cached_property
    def _any_task(self) -> Task[..., object]:
        return any_task(self._host, self.settings, has_store=self.components.store is not None)

    @cached_property
    def _portal(self) -> Portal:
        from taskcore.blocking import Portal  # noqa: PLC0415 - as in sync

        return Portal(self, lambda: self._host.token)

    # ── watching ──

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each event of :mod:`taskcore.observe` has happened."""
        return self._events.counters

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[Event], None]:
        """Call a function at every event; use it as a decorator. It must be quick and is called in the event loop."""
        return self._events.listen(listener)

    def on_dead_letter(self, hook: DeadLetterHook) -> DeadLetterHook:
        """Call a function, plain or async, after each job that a worker here buries; use it as a decorator."""
        from taskcore.deadletter import telling  # noqa: PLC0415 - as in dead_letters

        self._events.listen(telling(hook))
        return hook

    # ── inside ──

    def _reset(self) -> None:
        """Begin closed: at first, after a loop that ended with the app open, and in the child of a fork."""
        self._host.close()
        #: What this app is made of, for the test kit and for tools.
        self.components = self._build()
