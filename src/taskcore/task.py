"""Task, Call, Job: a typed function, one checked call of it, and the handle of a call that was sent.

    task = app.task(function)        compiled once, when the module is imported
    call = task.call("Ada")          arguments checked and packed; nothing sent yet
    job = await task.enqueue("Ada")  the same, and sent; ``await job.result()`` is typed

A task knows its contract and its policies. It knows neither broker nor worker: whatever it has to send goes through the
:class:`Sender` that its app gives it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, Unpack

import msgspec

from taskcore.contract import Contract
from taskcore.envelope import ErrorRecord
from taskcore.errors import InvalidArguments, JobCancelled, JobError, JobExpired, JobFailed, NotRunning
from taskcore.options import NO_OPTIONS, CallOptions, Key, Options, TaskSpec, UsingOptions, call_options
from taskcore.results import Cancelled, Dead, Expired, Failed, JobOutcome, Succeeded

__all__ = [
    "AsyncTask",
    "Call",
    "ConfiguredTask",
    "Job",
    "JobStatus",
    "PlainTask",
    "SyncJob",
    "SyncTask",
    "Task",
    "TaskHost",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

JobStatus: TypeAlias = Literal[
    "scheduled", "queued", "running", "succeeded", "failed", "dead", "cancelled", "expired", "unknown"
]


class Call(msgspec.Struct, Generic[R], frozen=True, gc=False, eq=False):
    """A task with its arguments packed and checked; nothing is sent yet. Give it to ``app.enqueue_many``."""

    task: Task[Any, R]
    payload: bytes
    key: str | None
    options: CallOptions

    def __repr__(self) -> str:
        return f"<Call {self.task.name} {len(self.payload)} bytes>"


class TaskHost(Protocol):
    """What a task needs from its app."""

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call."""
        ...

    async def outcome(self, job: Job[R], timeout: float | None) -> JobOutcome[R]:
        """Wait for the ending of a job."""
        ...

    async def status(self, job: Job[Any]) -> JobStatus:
        """Where a job is now."""
        ...

    async def cancel(self, job: Job[Any]) -> bool:
        """Keep a job from starting."""
        ...

    def run_blocking(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function on the app's loop and wait for it, from a thread that has no loop."""
        ...


class Task(Generic[P, R]):
    """A typed function that can run in the background: its contract and its policies.

    Calling a task is calling its function, at once and here. ``call``, ``enqueue`` and ``using`` are for later.
    """

    options: Options  #: set when an app takes the task in

    def __init__(self, contract: Contract, spec: TaskSpec) -> None:
        self.name: str = contract.name
        self.contract: Contract = contract
        self.spec: TaskSpec = spec
        self.is_async: bool = inspect.iscoroutinefunction(contract.function)
        self._host: TaskHost | None = None
        self.__name__ = getattr(contract.function, "__name__", contract.name)
        self.__doc__ = contract.function.__doc__
        self.__module__ = contract.function.__module__
        self.__wrapped__ = contract.function

    def __repr__(self) -> str:
        return f"<Task {self.contract.signature} {self.name} v{self.contract.version} on {self.spec.queue}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Explain why a task without an app has no options; a property would cost each job a call."""
            if name == "options":
                raise _no_app(self, "so no settings complete its options")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Check and pack the arguments; no I/O.

        :raises InvalidArguments: they do not fit the signature; the text lists every problem (TC302, C24).
        """
        return self.pack(NO_OPTIONS, args, kwargs)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Send a job; it is as durable as the broker's settings when this returns.

        :raises InvalidArguments: the arguments do not fit; nothing was sent (TC302).
        :raises EnqueueRefused: surely not stored: the queue is full, … (TC203).
        :raises EnqueueUncertain: may or may not be stored; repeat it with its id (TC202).
        :raises BrokerUnavailable: surely not stored: the broker cannot be reached (TC201).
        :raises KeyConflict: its key was used with other arguments; nothing was sent (TC402).
        """
        return await self.host.send(self.pack(NO_OPTIONS, args, kwargs))

    def using(self, **options: Unpack[UsingOptions]) -> ConfiguredTask[P, R]:
        """Return the task with other options for one call.

        :param delay: seconds before the job may start.
        :param at: the aware date and time before which the job may not start; instead of ``delay``.
        :param key: idempotency key: within its window the same key means the same job.
        :param queue: another queue than the task's own.
        :param headers: strings for your own use, such as a tenant or a trace; at most 8 KiB.
        :param expires: seconds from now after which the job may not start any more.
        :param id: the job id to use, to repeat an enqueue whose answer was lost.
        :param correlation_id: what this job belongs to.
        :raises InvalidSetting: an option does not exist, or its value is impossible (TC104).
        """
        return ConfiguredTask(self, call_options(options))

    def job(self, id: str, *, queue: str | None = None) -> Job[R]:
        """The handle of a job that was sent earlier or elsewhere."""
        return Job(id, self, queue or self.spec.queue)

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking, for programs without an event loop."""
        return SyncTask(self, NO_OPTIONS)

    @property
    def host(self) -> TaskHost:
        """What sends this task's jobs.

        :raises NotRunning: no app has the task (TC106).
        """
        if self._host is None:
            raise _no_app(self, "so nothing can send it")
        return self._host

    def bind(self, sender: TaskHost, options: Options) -> None:
        """Called by the app that takes the task in."""
        self._host = sender
        self.options = options

    def pack(self, sending: CallOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[R]:
        """As :meth:`call`, with options."""
        rule = self.spec.key
        if rule is None or sending.key is not None:
            return Call(self, self.contract.pack(args, kwargs), sending.key, sending)
        arguments = self.contract.bind(args, kwargs)
        return Call(self, self.contract.encode(arguments), self._key(rule, arguments), sending)

    def _key(self, rule: Key, arguments: Any) -> str | None:
        if callable(rule):
            key: Any = self.contract.invoke(rule, arguments)
        elif isinstance(rule, str):
            key = _key_text(getattr(arguments, rule))
        else:
            key = _key_text([getattr(arguments, name) for name in rule])
        if key is None or (isinstance(key, str) and key):
            return key
        raise InvalidArguments(
            f"{self.name}: the idempotency key of this call is {key!r}; nothing was sent",
            fix="a key is a text that is not empty; a key function may return None for a call without a key",
        )


class AsyncTask(Task[P, R]):
    """A task made from an ``async def``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function itself."""
        result: Coroutine[Any, Any, R] = self.contract.function(*args, **kwargs)
        return result


class PlainTask(Task[P, R]):
    """A task made from a plain ``def``; workers run it in a thread unless it says otherwise."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        result: R = self.contract.function(*args, **kwargs)
        return result


class ConfiguredTask(Generic[P, R]):
    """A task with other options for one call."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Task[P, R], sending: CallOptions) -> None:
        self._task = task
        self._options = sending

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """As :meth:`Task.call`."""
        return self._task.pack(self._options, args, kwargs)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As :meth:`Task.enqueue`."""
        return await self._task.host.send(self._task.pack(self._options, args, kwargs))

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking."""
        return SyncTask(self._task, self._options)


class Job(msgspec.Struct, Generic[R], frozen=True, gc=False, eq=False):
    """The handle of one enqueued call. It holds no connection and may be kept, or made anew from an id."""

    id: str
    task: Task[Any, R]
    queue: str
    key: str | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.task.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: float | None = None) -> R:
        """The value that the function returned, as soon as it is there.

        :param timeout: seconds to wait at most; None waits as long as it takes.
        :raises JobFailed: the job is dead; ``error`` is the typed error if the task declares it in ``raises`` (TC403).
        :raises JobCancelled: it was cancelled (TC404).
        :raises JobExpired: its deadline passed before it could start (TC405).
        :raises ResultTimeout: no outcome yet; the text says where the job is (TC401).
        :raises ResultNotKept: results of this task are not stored (TC406).
        """
        outcome = await self.task.host.outcome(self, timeout)
        if isinstance(outcome, Succeeded):
            return outcome.value
        raise _error_of(self, outcome)

    async def outcome(self, timeout: float | None = None) -> JobOutcome[R]:
        """How the job ended, as a value to ``match`` on; a failed job does not raise here.

        :raises ResultTimeout: no outcome yet (TC401).
        :raises ResultNotKept: results of this task are not stored (TC406).
        """
        return await self.task.host.outcome(self, timeout)

    async def status(self) -> JobStatus:
        """Where the job is now; ``"unknown"`` if neither store nor broker can tell."""
        return await self.task.host.status(self)

    async def cancel(self) -> bool:
        """Keep the job from starting. True: it will never start (C14). False: it has started or ended already.

        A job that runs already can see the wish with ``await current().cancel_requested()``; if it fails, it is not
        tried again.

        :raises StoreRequired: the app has no store (TC105).
        """
        return await self.task.host.cancel(self)


class SyncTask(Generic[P, R]):
    """Enqueue from programs without an event loop. The app opens itself in a thread of its own when first used."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Task[P, R], sending: CallOptions) -> None:
        self._task = task
        self._options = sending

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """As :meth:`Task.enqueue`, blocking."""
        sender = self._task.host
        call = self._task.pack(self._options, args, kwargs)

        async def send() -> Job[R]:
            return await sender.send(call)

        return SyncJob(sender.run_blocking(send))


class SyncJob(Generic[R]):
    """The handle of a job, blocking."""

    __slots__ = ("job",)

    def __init__(self, job: Job[R]) -> None:
        self.job = job

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    def result(self, timeout: float | None = None) -> R:
        """As :meth:`Job.result`, blocking."""
        return self.job.task.host.run_blocking(self.job.result, timeout)

    def outcome(self, timeout: float | None = None) -> JobOutcome[R]:
        """As :meth:`Job.outcome`, blocking."""
        return self.job.task.host.run_blocking(self.job.outcome, timeout)

    def status(self) -> JobStatus:
        """As :meth:`Job.status`, blocking."""
        return self.job.task.host.run_blocking(self.job.status)

    def cancel(self) -> bool:
        """As :meth:`Job.cancel`, blocking."""
        return self.job.task.host.run_blocking(self.job.cancel)


def _no_app(task: Task[..., Any], so: str) -> NotRunning:
    return NotRunning(
        f"no app has the task {task.name}, {so}",
        facts=[f"defined at {task.contract.where}"],
        fix="app.include(router) with the router that declares it",
    )


def _error_of(job: Job[Any], outcome: Failed | Dead | Cancelled | Expired) -> JobError:
    what = f"job {job.id} of {job.task.name}"
    error: JobError
    match outcome:
        case Cancelled():
            error = JobCancelled(f"{what} was cancelled, so it has no result")
        case Expired():
            error = JobExpired(f"{what} could not start before its deadline")
        case Failed(error=cause, record=record):
            error = JobFailed(f"{what} failed with {record.type}: {record.message}")
            error.error, error.reason, error.record = cause, record.type, record
            error.__cause__ = cause
        case Dead(reason=reason, record=record):
            error = JobFailed(
                f"{what} is dead: {reason}",
                facts=_facts(record) if record else [],
                fix=None if job.task.options.delivery == "at_most_once" else SEE_DEAD_LETTER,
            )
            error.reason, error.record = reason, record
    error.job_id = job.id
    return error


SEE_DEAD_LETTER = "its dead letter has all errors and can be replayed: app.dead_letters"


def _facts(record: ErrorRecord) -> list[str]:
    facts = [f"last error: {record.type}: {record.message}"]
    return [*facts, f"at {record.where}"] if record.where else facts


def _key_text(value: Any) -> str | None:
    """One value or several as a key: texts as they are, everything else in its JSON form."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
