"""Task, Call, Job: a typed function, one checked call of it, and the handle of a call that was sent.

    task = app.task(function)        compiled once, when the module is imported
    call = task.call("Ada")          arguments checked and packed; nothing sent yet
    job = await task.enqueue("Ada")  the same, and sent; ``await job.result()`` is typed

A task knows its contract and its options; its app gives it a :class:`TaskHost`, which sends its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

import msgspec

from taskcore.config import Settings
from taskcore.contract import Contract
from taskcore.contract.codec import first_line, kind_of, short_repr
from taskcore.envelope import KEY_LIMIT, EnvelopeCodec
from taskcore.errors import InvalidArguments, InvalidSetting, NotRunning
from taskcore.options import NO_OPTIONS, CallOptions, Key, Options, TaskSpec, UsingOptions, call_options, is_encodable
from taskcore.results import JobOutcome, JobStatus, Succeeded, error_of
from taskcore.toolkit.units import Duration, seconds_of
from taskcore.toolkit.values import Door, ForeignNames, PublicValue, Refusing

if TYPE_CHECKING:  # imported when they are needed: see sync, then, and the doors of a job
    from taskcore.blocking import SyncTask
    from taskcore.progress import ReadLog, ReadProgress
    from taskcore.workflows import Chain, TakesFirst

__all__ = ["AsyncTask", "Bridge", "Call", "ConfiguredTask", "Job", "PlainTask", "Task", "TaskHost"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Call(msgspec.Struct, Generic[R_co], frozen=True, gc=False, eq=False):
    """A task with its arguments packed and checked; nothing is sent yet. Give it to ``app.enqueue_many``."""

    task: Task[Any, R_co]
    payload: bytes
    key: str | None
    options: CallOptions

    def __repr__(self) -> str:
        return f"<Call {self.task.name} {len(self.payload)} bytes>"

    def then(self, task: TakesFirst[R_co, P, T], /, *args: P.args, **kwargs: P.kwargs) -> Chain[T]:
        """Begin a chain: the result of this call is the first argument of a next task; ``submit`` sends all of it."""
        return import_module("taskcore.workflows").Chain.begin(self).then(task, *args, **kwargs)  # type: ignore[no-any-return]


class Bridge(Protocol):
    """Runs coroutine functions for threads that have no event loop."""

    def __call__(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run one in the app's loop and wait for it; ``NotRunning`` (TC106) in a thread whose loop it would block."""
        ...


class TaskHost(Protocol):
    """What a task needs from its app."""

    codec: EnvelopeCodec  #: makes and reads the bytes of envelopes
    run_blocking: Bridge  #: for the blocking forms

    def send(self, call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
        """Send one call."""
        ...

    def outcome(self, job: Job[R], timeout: float | None) -> Coroutine[Any, Any, JobOutcome[R]]:
        """Wait for the end of a job."""
        ...

    def status(self, job: Job[Any]) -> Coroutine[Any, Any, JobStatus]:
        """Return where a job is now."""
        ...

    def cancel(self, job: Job[Any]) -> Coroutine[Any, Any, bool]:
        """Keep a job from starting."""
        ...


class Task(ForeignNames, Generic[P, R]):
    """A typed function that can run in the background.

    Calling a task calls its function, at once and in this process. ``call``, ``enqueue`` and ``using`` are for later.
    """

    _kind: ClassVar = "a task"
    options: Options  #: those of the app that has the task

    def __init__(self, contract: Contract, spec: TaskSpec) -> None:
        self.name: str = contract.name
        self.contract: Contract = contract
        self.spec: TaskSpec = spec
        self.is_async: bool = contract.is_async
        self.options = cast("Options", Refusing(lambda: _no_app(self, "so no settings complete its options")))
        self._host: TaskHost | None = None
        self.__name__ = getattr(contract.function, "__name__", contract.name)
        self.__doc__ = contract.function.__doc__
        self.__module__ = contract.function.__module__
        self.__wrapped__ = contract.function

    def __repr__(self) -> str:
        return f"<Task {self.contract.signature} {self.name} v{self.contract.version} on {self.spec.queue}>"

    @property
    def standalone_options(self) -> Options:
        """Return the options in the app, or, for a task that no app has, completed by the default settings."""
        return self.spec.complete(Settings(), has_store=False) if self._host is None else self.options

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Check and pack the arguments; no I/O.

        :raises InvalidArguments: they do not fit the signature; the text lists every problem (TC302, C24).
        """
        return self.pack(NO_OPTIONS, args, kwargs)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Send a job; it is as durable as the broker's settings when this returns.

        :raises InvalidArguments: the arguments do not fit; nothing was sent (TC302).
        :raises EnqueueRefused: surely not stored: the queue is full, … (TC203).
        :raises EnqueueUncertain: may or may not be stored; repeat it with its id (TC202).
        :raises BrokerUnavailable: surely not stored: the broker cannot be reached (TC201).
        :raises KeyConflict: its key was used with other arguments; nothing was sent (TC402).
        :raises WrongTask: ``using`` gave it the id of another task's job; nothing was sent (TC409).
        """
        return await self.host.send(self.pack(NO_OPTIONS, args, kwargs))

    def using(self, **options: Unpack[UsingOptions]) -> ConfiguredTask[P, R]:
        """Return the task with other options for one call; :class:`taskcore.options.UsingOptions` explains them.

        :raises InvalidSetting: an option does not exist, or its value is impossible (TC104).
        """
        if options.get("soft_timeout") is not None:
            import_module("taskcore.soft_timeouts").refuse_unlimited(self.name, self.is_async, self.spec.runs_in)
        return ConfiguredTask(self, call_options(options))

    def job(self, id: str, *, queue: str | None = None) -> Job[R]:
        """Make the handle of a job that was sent earlier or elsewhere.

        :raises InvalidSetting: the id cannot be one (TC104).
        :raises InvalidName: the queue's name cannot travel (TC308).
        """
        if id is None:
            raise InvalidSetting("id=None is not a job's id", fix="give the id that `enqueue` returned: job.id")
        chosen = call_options({"id": id, "queue": queue})
        return Job(id, self, chosen.queue or self.spec.queue)

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking, for programs without an event loop."""
        return ConfiguredTask(self, NO_OPTIONS).sync

    @property
    def host(self) -> TaskHost:
        """The app's side of this task.

        :raises NotRunning: no app has the task (TC106).
        """
        if self._host is None:
            raise _no_app(self, "so nothing can send it")
        return self._host

    @property
    def binding(self) -> tuple[TaskHost | None, Options]:
        """What ``bind`` was given last."""
        return self._host, self.options

    def bind(self, host: TaskHost | None, options: Options) -> None:
        """Give the task to an app, which calls this when it takes the task in; or back to where it was."""
        self._host = host
        self.options = options

    def pack(self, options: CallOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[R]:
        """Check and pack the arguments, as :meth:`call` does, with options."""
        if self.spec.key is None or options.key is not None:
            return Call(self, self.contract.pack(args, kwargs), options.key, options)
        arguments = self.contract.bind(args, kwargs)
        return Call(self, self.contract.encode(arguments), self.key_of(arguments, self.spec.key), options)

    def key_of(self, arguments: Any, rule: Key) -> str | None:
        """Make the key of a call by the task's rule."""
        try:
            key = self.contract.invoke(rule, arguments) if callable(rule) else self.contract.key_of(arguments, rule)
        except InvalidArguments:
            raise
        except Exception as error:
            raise InvalidArguments(
                f"{self.name}: the key function of this call raised {type(error).__name__}; nothing was sent",
                facts=[first_line(error)],
                public_facts=["its text may hold values"],
                fix="mend the key function; for a call without a key it returns None",
            ) from error
        if key is None or (isinstance(key, str) and 0 < len(key) <= KEY_LIMIT and is_encodable(key)):
            return key
        raise InvalidArguments(
            f"{self.name}: the idempotency key of this call cannot be used; nothing was sent",
            facts=[f"the key is {short_repr(key)}"],
            public_facts=[f"the key is of type {kind_of(key)}"],
            fix=f"return a text of 1 to {KEY_LIMIT} characters without halves of surrogate pairs, or None for a call "
            "without a key; a hash is short",
        )


class AsyncTask(Task[P, R]):
    """A task made from an ``async def``."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function itself."""
        result: Coroutine[Any, Any, R] = self.contract.function(*args, **kwargs)
        return result


class PlainTask(Task[P, R]):
    """A task made from a plain ``def``; workers run it in a thread, or as ``runs_in`` says."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        result: R = self.contract.function(*args, **kwargs)
        return result


class ConfiguredTask(ForeignNames, Generic[P, R]):
    """A task with other options for one call."""

    __slots__ = ("options", "task")
    _kind: ClassVar = "a task"

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self.task = task
        self.options = options

    def __repr__(self) -> str:
        return repr(self.task)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Check and pack the arguments, as :meth:`Task.call` does."""
        return self.task.pack(self.options, args, kwargs)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Send a job, as :meth:`Task.enqueue` does."""
        return await self.task.host.send(self.task.pack(self.options, args, kwargs))

    def job(self, id: str, *, queue: str | None = None) -> Job[R]:
        """Make the handle of a job that was sent with these options; see :meth:`Task.job`."""
        return self.task.job(id, queue=queue or self.options.queue)

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking."""
        from taskcore.blocking import SyncTask  # noqa: PLC0415 - most programs make no blocking calls

        return SyncTask(self, self.task.host)


class Job(ForeignNames, PublicValue, Generic[R_co], frozen=True, gc=False, eq=False):
    """The handle of one enqueued call. It holds no connection and may be kept, or made anew from an id."""

    _kind: ClassVar = "a job"
    shown: ClassVar = {"task": lambda task: task.name}

    id: str
    task: Task[Any, R_co]
    queue: str
    key: str | None = None

    #: Read how far it has got: ``await job.progress()``, ``async for seen in job.progress()``.
    progress = cast("Door[ReadProgress]", Door("taskcore.progress:ReadProgress"))
    #: Read the lines of its log: ``await job.log()``, ``async for line in job.log()``.
    log = cast("Door[ReadLog]", Door("taskcore.progress:ReadLog"))

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.task.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __ne__(self, other: object) -> bool:  # msgspec brings one that compares objects
        return not self == other

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the value that the function returned.

        :param timeout: how long to wait at most; None sets no limit.
        :raises JobFailed: the job is dead; ``error`` is the typed error if the task declares it in ``raises`` (TC403).
        :raises JobCancelled: it was cancelled (TC404).
        :raises JobExpired: its deadline passed before it could start (TC405).
        :raises ResultTimeout: no outcome yet; the text says where the job is (TC401).
        :raises WrongTask: the id is that of another task's job (TC409).
        :raises ResultNotKept: results of this task are not stored (TC406).
        """
        outcome = await self.outcome(timeout)
        if isinstance(outcome, Succeeded):
            return outcome.value
        has_dead_letter = self.task.options.delivery != "at_most_once"
        raise error_of(self.id, self.task.name, outcome, has_dead_letter=has_dead_letter)

    async def outcome(self, timeout: Duration | None = None) -> JobOutcome[R_co]:
        """Wait for the job's end and return it as a value to ``match`` on; a failed job does not raise here.

        :raises ResultTimeout: no outcome yet (TC401).
        :raises WrongTask: the id is that of another task's job (TC409).
        :raises ResultNotKept: results of this task are not stored (TC406).
        """
        seconds = None if timeout is None else seconds_of("timeout", timeout)
        return await self.task.host.outcome(self, seconds)

    async def status(self) -> JobStatus:
        """Return where the job is now; ``"unknown"`` if neither store nor broker can tell."""
        return await self.task.host.status(self)

    async def cancel(self) -> bool:
        """Keep the job from starting. True: it will never start (C14). False: it has started or ended already.

        A job that runs already can see the request with ``await current().cancel_requested()``; if it fails, it is
        not tried again.

        :raises StoreRequired: the app has no store (TC105).
        """
        return await self.task.host.cancel(self)


def _no_app(task: Task[..., Any], so: str) -> NotRunning:
    return NotRunning(
        f"no app has the task {task.name}, {so}",
        facts=[f"defined at {task.contract.where}"],
        fix="app.include(router) with the router that declares it",
    )
