"""The ``@task`` decorator, and routers: tasks declared before any app exists.

A library declares its tasks on a :class:`Router`; a program takes them in with ``app.include(router)``. An app declares
its own tasks in the same way.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from taskcore.contract import Upcast, compile_contract
from taskcore.envelope import check_name
from taskcore.errors import DuplicateTask, InvalidContract, InvalidSetting
from taskcore.options import DEFAULT, DeliveryMode, Key, RunsIn, TaskSpec, UseDefault, refuse_unknown
from taskcore.policy import Retry
from taskcore.task import AsyncTask, PlainTask, Task

__all__ = ["Decorator", "Router", "TaskOptions"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """The options of ``@app.task``. Times in seconds.

    :param name: default: module and function name. The name travels with each job, so keep it when you move code.
    :param queue: where its jobs wait; default: ``"default"``.
    :param version: of the contract, from 1; raise it when the arguments change.
    :param upcasts: ``{1: from_v1}``: turns the arguments of an older version, a dict, into those of the next.
    :param timeout: how long one attempt may take; None sets no limit; default: the app's setting.
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
        functions that compute).
    """

    name: str | None
    queue: str
    version: int
    upcasts: Mapping[int, Upcast] | None
    timeout: float | UseDefault | None
    expires: float | None
    retry: Retry | int | UseDefault | None
    crashes: int | UseDefault
    key: Key | None
    key_window: float | UseDefault
    raises: tuple[type[BaseException], ...]
    keep_result: float | UseDefault | None
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


class Router:
    """A set of tasks that an app can take in."""

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
        """Take one task in.

        :raises DuplicateTask: another task has its name (TC306).
        """
        known = self._tasks.get(task.name)
        if known is not None and known is not task:
            raise DuplicateTask(
                f"two tasks are named {task.name!r}",
                facts=[f"one at {known.contract.where}", f"one at {task.contract.where}"],
                fix='give one of them another name: @app.task(name="…")',
            )
        self._tasks[task.name] = task


def _make_task(function: Callable[..., Any], options: TaskOptions) -> Task[..., Any]:
    refuse_unknown("@task", options, TaskOptions.__annotations__)
    contract = compile_contract(
        function,
        name=_task_name(options.get("name"), function),
        version=options.get("version", 1),
        upcasts=options.get("upcasts"),
        raises=options.get("raises", ()),
    )
    is_async = inspect.iscoroutinefunction(function)
    given: dict[str, Any] = {name: value for name, value in options.items() if name in TaskSpec.__struct_fields__}
    given["queue"] = check_name("queue", given.get("queue", "default"))
    given["retry"] = _retry(options.get("retry", DEFAULT))
    given["runs_in"] = options.get("runs_in") or ("loop" if is_async else "thread")
    spec = TaskSpec(**given)
    problems = list(_problems(spec, is_async=is_async, parameters=contract.parameters))
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
    return check_name("task", f"{_imported_name(module)}.{own}".lower().lstrip("_."))


def _imported_name(module: str) -> str:
    """Return the name under which a worker imports the module: that of a script that runs is ``__main__``."""
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if not file:
        return "main"
    from pathlib import Path  # noqa: PLC0415 - for tasks of a script only

    return Path(file).stem


def _retry(retry: Retry | int | UseDefault | None) -> Retry | UseDefault:
    if retry is None or retry == 0:
        return Retry(attempts=1)
    if isinstance(retry, int) and not isinstance(retry, bool):
        return Retry(attempts=retry)
    if isinstance(retry, Retry) or retry is DEFAULT:
        return retry
    raise InvalidSetting(f"retry={retry!r} is not a policy", fix="give a Retry(…), a number of attempts, or None")


def _problems(spec: TaskSpec, *, is_async: bool, parameters: tuple[str, ...]) -> Iterator[str]:
    """Yield everything in the options that cannot work."""
    for name in ("timeout", "expires", "key_window", "keep_result"):
        value = getattr(spec, name)
        if value is not None and value is not DEFAULT and not _positive(value):
            yield f"{name}: expected seconds above 0, got {value!r}"
    if spec.crashes is not DEFAULT and (type(spec.crashes) is not int or spec.crashes < 1):
        yield f"crashes: expected a whole number, at least 1, got {spec.crashes!r}"
    if spec.delivery not in ("at_least_once", "at_most_once"):
        yield f'delivery: expected "at_least_once" or "at_most_once", got {spec.delivery!r}'
    if spec.runs_in not in ("loop", "thread", "process"):
        yield f'runs_in: expected "loop", "thread" or "process", got {spec.runs_in!r}'
    elif is_async and spec.runs_in != "loop":
        yield f'runs_in: an async function runs in the loop, not in a {spec.runs_in}; write it as a plain "def"'
    names = (spec.key,) if isinstance(spec.key, str) else spec.key if isinstance(spec.key, tuple) else ()
    for missing in sorted({name for name in names if name not in parameters}):
        yield f"key: there is no parameter {missing!r}; the function has: {', '.join(parameters) or 'none'}"
    if spec.key is not None and spec.delivery == "at_most_once":
        yield 'key: needs delivery="at_least_once", because a lost job would keep its key'


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
