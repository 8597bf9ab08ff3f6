"""The ``@task`` decorator, and routers: tasks declared before any app exists.

A library declares its tasks on a :class:`Router`; a program takes them in with ``app.include(router)``. An app declares
its own tasks in the same way.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from taskcore.config import Settings
from taskcore.contract import Contract, Upcast, compile_contract
from taskcore.envelope import check_name
from taskcore.errors import DuplicateTask, InvalidContract, InvalidName, InvalidSetting
from taskcore.options import DEFAULT, DeliveryMode, Key, RunsIn, TaskSpec, UseDefault, refuse_unknown
from taskcore.policy import Retry
from taskcore.results import ANY_TASK
from taskcore.task import AsyncTask, PlainTask, Task, TaskHost
from taskcore.toolkit.units import Duration, duration, shorten_repr
from taskcore.toolkit.values import ForeignNames

__all__ = ["Decorator", "Router", "TaskOptions", "any_task", "tasks_of"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """The options of ``@app.task``. A time is seconds, a timedelta, or text such as ``"5m"``.

    :param name: default: module and function name. The name travels with each job, so keep it when you move code.
    :param queue: where its jobs wait; default: ``"default"``.
    :param version: of the contract, from 1; raise it when the arguments change.
    :param upcasts: ``{1: from_v1}``: turns the arguments of an older version, a dict, into those of the next.
    :param timeout: how long one attempt may take; None sets no limit; default: the app's setting.
    :param soft_timeout: after which ``SoftTimeout`` is raised inside of the function, which may clean up and return;
        default: None.
    :param expires: from when it is sent; after it a job may not start any more; default: never.
    :param retry: a :class:`Retry`, a number of attempts, or None for a single attempt; default: the app's setting.
    :param crashes: how many starts may kill their process before the job is dead (C12); default: 3, where they count.
    :param key: idempotency key: parameter name(s), or a function of the arguments (C10).
    :param key_window: how long a key is remembered after its job has ended; default: the app's setting.
    :param raises: errors that are part of the contract; callers get them back typed.
    :param keep_result: how long the outcome can be read; None keeps none; default: the app's setting.
    :param delivery: ``"at_most_once"`` removes the job from the broker before it starts: never two starts, perhaps
        none (C9); default: ``"at_least_once"``.
    :param runs_in: ``"loop"`` (async functions), ``"thread"`` (the default of plain functions) or ``"process"`` (plain
        functions that compute). A coroutine that a plain function returns is awaited in the loop, or in its process.
    """

    name: str | None
    queue: str
    version: int
    upcasts: Mapping[int, Upcast] | None
    timeout: Duration | UseDefault | None
    soft_timeout: Duration | None
    expires: Duration | None
    retry: Retry | int | UseDefault | None
    crashes: int | UseDefault
    key: Key | None
    key_window: Duration | UseDefault
    raises: tuple[type[BaseException], ...]
    keep_result: Duration | UseDefault | None
    delivery: DeliveryMode
    runs_in: RunsIn | None


class Decorator(Protocol):
    """The result of ``@app.task(...)``: takes a function, returns a task of the same types."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine function is a function too; the first match is meant
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainTask[P, R]: ...


class Router(ForeignNames):
    """A set of tasks that an app can take in."""

    _kind: ClassVar = "an app"

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The tasks by name."""
        return dict(self._tasks)

    @overload
    def task(  # type: ignore[overload-overlap]  # as above
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> PlainTask[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Make a function a task. Use it bare, ``@app.task``, or with options: :class:`TaskOptions` explains them.

        :raises InvalidContract: the function or an option cannot be a contract; names file, line and parameter (TC303).
        :raises InvalidSetting: an option does not exist (TC104).
        :raises DuplicateTask: the name is taken (TC306).
        """

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            task = _make_task(function, options)
            self.add(task)
            return task

        return decorate if function is None else decorate(function)

    def add(self, task: Task[..., Any]) -> None:
        """Take one task in; a function that is defined again takes the place of the earlier one.

        :raises DuplicateTask: another task has its name (TC306).
        """
        if not isinstance(task, Task):
            raise InvalidSetting(f"{shorten_repr(task)} is not a task", fix="declare it: @app.task on the function")
        known = self._tasks.get(task.name, task)
        if known is not task and not _is_anew(known, task):
            raise DuplicateTask(
                f"two tasks are named {task.name!r}",
                facts=[f"one at {known.contract.where}", f"one at {task.contract.where}"],
                fix='give one of them another name: @app.task(name="…")',
            )
        self._tasks[task.name] = task


def tasks_of(router: Router) -> Iterable[Task[..., Any]]:
    """Return the tasks of a router.

    :raises InvalidSetting: it is none (TC104).
    """
    if not isinstance(router, Router):
        raise InvalidSetting(f"{shorten_repr(router)} is not a router", fix="app.include(router)")
    return router


def _is_anew(known: Task[..., Any], task: Task[..., Any]) -> bool:
    from taskcore.contract.redefinition import is_redefinition  # noqa: PLC0415 - for a name that is taken

    return is_redefinition(known.contract.function, task.contract.function)


def _make_task(function: Callable[..., Any], options: TaskOptions) -> Task[..., Any]:
    refuse_unknown("@task", options, TaskOptions.__annotations__)
    if options.get("soft_timeout") is not None:
        function = import_module("taskcore.soft_timeouts").limited_task(function, options)
    contract = compile_contract(
        function,
        name=_task_name(options.get("name"), function),
        version=options.get("version", 1),
        upcasts=options.get("upcasts"),
        raises=options.get("raises", ()),
    )
    is_async = contract.is_async
    given: dict[str, Any] = {name: value for name, value in options.items() if name in TaskSpec.__struct_fields__}
    given["queue"] = check_name("queue", given.get("queue", "default"))
    given["retry"] = _retry(options.get("retry", DEFAULT))
    for name in ("timeout", "key_window", "keep_result"):
        if given.get(name) is not None and given[name] is not DEFAULT:
            with suppress(InvalidSetting):  # told below, with the others
                given[name] = duration(given[name])
    if given.get("runs_in") is None:
        given["runs_in"] = "loop" if is_async else "thread"
    spec = TaskSpec(**given)
    problems = list(_problems(spec, contract, is_async=is_async))
    if problems:
        raise InvalidContract(
            f"{contract.name}: these options do not fit ({contract.where})",
            facts=problems,
            fix="see the options in help(taskcore.router.TaskOptions)",
        )
    return AsyncTask(contract, spec) if is_async else PlainTask(contract, spec)


def _task_name(name: str | None, function: Callable[..., Any]) -> str:
    if name is not None:
        return check_name("task", name)
    module = getattr(function, "__module__", None) or "main"
    own = getattr(function, "__name__", "")
    if own == "<lambda>":
        raise InvalidName(
            "a lambda has no name that could travel", fix='name it: app.task(name="shop.double")(lambda …)'
        )
    return check_name("task", f"{_imported_name(module)}.{own}".lower().lstrip("_."))


def _imported_name(module: str) -> str:
    """Return the name under which a worker imports the module: that of a script that runs is ``__main__``."""
    if module not in ("__main__", "__mp_main__"):
        return "main" if module.startswith("<") else module  # "<run_path>"
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if not file or file.startswith("<"):  # "<stdin>", "<string>"
        return "main"
    from pathlib import Path  # noqa: PLC0415 - for tasks of a script only

    return Path(file).stem


def _retry(retry: Retry | int | UseDefault | None) -> Retry | UseDefault:
    if retry is None:
        return Retry(attempts=1)
    if isinstance(retry, int) and not isinstance(retry, bool):
        return Retry(attempts=retry)
    if isinstance(retry, Retry) or retry is DEFAULT:
        return retry
    raise InvalidSetting(
        f"retry={shorten_repr(retry)} is not a policy", fix="give a Retry(…), a number of attempts, or None"
    )


def _problems(spec: TaskSpec, contract: Contract, *, is_async: bool) -> Iterator[str]:
    """Yield everything in the options that cannot work."""
    for name in ("timeout", "expires", "key_window", "keep_result"):
        value = getattr(spec, name)
        if value is not None and value is not DEFAULT and not _positive(value):
            yield f'{name}: expected seconds above 0, a timedelta, or text such as "5m", got {shorten_repr(value)}'
    if spec.crashes is not DEFAULT and (type(spec.crashes) is not int or spec.crashes < 1):
        yield f"crashes: expected a whole number, at least 1, got {shorten_repr(spec.crashes)}"
    if spec.delivery not in ("at_least_once", "at_most_once"):
        yield f'delivery: expected "at_least_once" or "at_most_once", got {shorten_repr(spec.delivery)}'
    if spec.runs_in not in ("loop", "thread", "process"):
        yield f'runs_in: expected "loop", "thread" or "process", got {shorten_repr(spec.runs_in)}'
    elif is_async and spec.runs_in != "loop":
        yield f'runs_in: an async function runs in the loop, not in a {spec.runs_in}; write it as a plain "def"'
    yield from _key_problems(spec.key, contract)
    if spec.key is not None and spec.delivery == "at_most_once":
        yield 'key: needs delivery="at_least_once", because a lost job would keep its key'


def _key_problems(key: object, contract: Contract) -> Iterator[str]:
    """Yield why calls of the task could not make this key."""
    if callable(key):
        misfit = contract.misfit_of(key)
        if inspect.iscoroutinefunction(key):
            yield 'key: an async function cannot make a key, since calls are packed without waiting; use a plain "def"'
        elif misfit is not None:
            yield (
                f"key: the function gets every argument as the task does ({contract.signature}), and "
                f"cannot be called so: {misfit}; give it the same parameters, for example "
                f"key=lambda {', '.join(contract.parameters)}: …"
            )
    elif key == ():
        yield 'key: a tuple without a parameter would be one key for all calls; name one, such as key="order_id"'
    elif isinstance(key, str | tuple):
        names, has = ", ".join(contract.parameters) or "none", [*map(shorten_repr, contract.parameters)]
        for missing in dict.fromkeys(shorten_repr(name) for name in ((key,) if isinstance(key, str) else key)):
            if missing not in has:
                yield f"key: there is no parameter {missing}; the function has: {names}"
    elif key is not None:
        yield f"key: expected a parameter's name, a tuple of names or a function, got {shorten_repr(key)}"


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


# ── the task of jobs of which only the id is known ───────────────────────────────────────────────


async def _any() -> Any: ...


def any_task(host: TaskHost, settings: Settings, *, has_store: bool) -> Task[..., object]:
    """Make, for one app, the task of jobs of which only the id is known: it reads any result, as plain JSON data."""
    task: Task[..., object] = AsyncTask(compile_contract(_any, name=ANY_TASK), TaskSpec(queue=""))
    task.bind(host, task.spec.complete(settings, has_store=has_store))
    return task
