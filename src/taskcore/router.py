"""The ``@task`` decorator, and routers: tasks declared before any app exists.

A library declares its tasks on a :class:`Router`; a program takes them in with ``app.include(router)``. An app declares
its own tasks in the same way.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import msgspec

from taskcore.contract import compile_contract
from taskcore.envelope import check_name
from taskcore.errors import DuplicateTask, InvalidContract, InvalidSetting
from taskcore.lifecycle import Rules
from taskcore.options import DeliveryMode, Key, Options, RunsIn
from taskcore.policy import Retry
from taskcore.task import AsyncTask, PlainTask, Task

__all__ = ["DEFAULT", "Decorator", "Default", "Router", "TaskSpec"]

P = ParamSpec("P")
R = TypeVar("R")
Upcast: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class Default(Enum):
    """Stands for: as the app's settings say."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
UseDefault: TypeAlias = Literal[Default.DEFAULT]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the decorator was told, before an app's settings complete it."""

    queue: str
    retry: Retry | UseDefault
    crashes: int | UseDefault
    timeout: float | None
    key: Key | None
    key_window: float | UseDefault
    keep_result: float | UseDefault | None
    delivery: DeliveryMode
    runs_in: RunsIn

    def complete(self, *, retry: Retry, key_window: float, keep_result: float | None, park_for: float) -> Options:
        """The options of a task in an app with these settings."""
        chosen = retry if self.retry is DEFAULT else self.retry
        if self.delivery == "at_most_once":
            chosen = Retry(attempts=1)
        rules = Rules(retry=chosen, park_for=park_for)
        if self.crashes is not DEFAULT:
            rules = msgspec.structs.replace(rules, crashes=self.crashes)
        return Options(
            queue=self.queue,
            rules=rules,
            timeout=self.timeout,
            key=self.key,
            key_window=key_window if self.key_window is DEFAULT else self.key_window,
            keep_result=keep_result if self.keep_result is DEFAULT else self.keep_result,
            delivery=self.delivery,
            runs_in=self.runs_in,
        )


class Decorator(Protocol):
    """What ``@app.task(...)`` gives: takes a function, returns a task of the same types."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine function is a function too; the first match is meant
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainTask[P, R]: ...


class Router:
    """A set of tasks that an app can take in."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[Task[..., Any], TaskSpec]] = {}

    def __iter__(self) -> Iterator[tuple[Task[..., Any], TaskSpec]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The tasks by name."""
        return {name: task for name, (task, _) in self._tasks.items()}

    @overload
    def task(  # type: ignore[overload-overlap]  # as above
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> PlainTask[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        timeout: float | None = None,
        retry: Retry | int | UseDefault | None = DEFAULT,
        crashes: int | UseDefault = DEFAULT,
        key: Key | None = None,
        key_window: float | UseDefault = DEFAULT,
        raises: tuple[type[BaseException], ...] = (),
        keep_result: float | UseDefault | None = DEFAULT,
        delivery: DeliveryMode = "at_least_once",
        runs_in: RunsIn | None = None,
    ) -> Decorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        timeout: float | None = None,
        retry: Retry | int | UseDefault | None = DEFAULT,
        crashes: int | UseDefault = DEFAULT,
        key: Key | None = None,
        key_window: float | UseDefault = DEFAULT,
        raises: tuple[type[BaseException], ...] = (),
        keep_result: float | UseDefault | None = DEFAULT,
        delivery: DeliveryMode = "at_least_once",
        runs_in: RunsIn | None = None,
    ) -> Any:
        """Make a function a task; use it bare, ``@app.task``, or with options. Times in seconds.

        :param name: default: module and function name. The name travels with each job, so keep it when you move code.
        :param queue: where its jobs wait.
        :param version: of the contract; raise it when the arguments change.
        :param upcasts: ``{1: from_v1}``: turns the arguments of an older version, a dict, into those of the next.
        :param timeout: how long one attempt may take; None is as long as it likes.
        :param retry: a :class:`Retry`, a number of attempts, or None for a single attempt.
        :param crashes: how many starts may kill their process before the job is dead (C12); 3, where they are counted.
        :param key: idempotency key: parameter name(s), or a function of the arguments (C10).
        :param key_window: how long a key is remembered.
        :param raises: errors that are part of the contract; callers get them back typed.
        :param keep_result: how long the outcome can be asked for; None: nobody will.
        :param delivery: ``"at_most_once"``: forget the job before it starts; never two starts, perhaps none (C9).
        :param runs_in: ``"loop"`` (async functions), ``"thread"`` or ``"process"`` (plain ones that compute).
        :raises InvalidContract: the function or an option cannot be a contract; names file, line and parameter (TC303).
        :raises DuplicateTask: the name is taken (TC306).
        """

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            contract = compile_contract(
                function, name=_task_name(name, function), version=version, upcasts=upcasts, raises=raises
            )
            is_async = inspect.iscoroutinefunction(function)
            declared = TaskSpec(
                queue=check_name("queue", queue),
                retry=_retry(retry),
                crashes=crashes,
                timeout=timeout,
                key=key,
                key_window=key_window,
                keep_result=keep_result,
                delivery=delivery,
                runs_in=runs_in or ("loop" if is_async else "thread"),
            )
            problems = list(_problems(declared, is_async=is_async, parameters=contract.parameters))
            if problems:
                raise InvalidContract(
                    f"{contract.name}: these options do not fit ({contract.where})",
                    facts=problems,
                    fix="see the options in help(taskcore.App.task)",
                )
            kind = AsyncTask if is_async else PlainTask
            task: Task[..., Any] = kind(contract, declared.complete(**UNTIL_INCLUDED))
            self.add(task, declared)
            return task

        return decorate if function is None else decorate(function)

    def add(self, task: Task[..., Any], declared: TaskSpec) -> None:
        """Take one task in.

        :raises DuplicateTask: another task has its name (TC306).
        """
        known = self._tasks.get(task.name)
        if known is not None and known[0] is not task:
            raise DuplicateTask(
                f"two tasks are named {task.name!r}",
                facts=[f"one at {known[0].contract.where}", f"one at {task.contract.where}"],
                fix='give one of them another name: @app.task(name="…")',
            )
        self._tasks[task.name] = task, declared


UNTIL_INCLUDED: Final[Mapping[str, Any]] = {
    "retry": Retry(),
    "key_window": 86_400.0,
    "keep_result": 3_600.0,
    "park_for": 86_400.0,
}


def _task_name(name: str | None, function: Callable[..., Any]) -> str:
    if name is not None:
        return check_name("task", name)
    module = getattr(function, "__module__", None) or "main"
    own = getattr(function, "__name__", "")
    return check_name("task", f"{_imported_name(module)}.{own}".lower().lstrip("_."))


def _imported_name(module: str) -> str:
    """A script's module is ``__main__`` when it runs and has its own name when a worker imports it: use the latter."""
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "main"


def _retry(retry: Retry | int | UseDefault | None) -> Retry | UseDefault:
    if retry is None or retry == 0:
        return Retry(attempts=1)
    if isinstance(retry, int) and not isinstance(retry, bool):
        return Retry(attempts=retry)
    if isinstance(retry, Retry) or retry is DEFAULT:
        return retry
    raise InvalidSetting(f"retry={retry!r} is not a policy", fix="give a Retry(…), a number of attempts, or None")


def _problems(declared: TaskSpec, *, is_async: bool, parameters: tuple[str, ...]) -> Iterator[str]:
    """Everything in the options that cannot work."""
    for name in ("timeout", "key_window", "keep_result"):
        value = getattr(declared, name)
        if value is not None and value is not DEFAULT and not _positive(value):
            yield f"{name}: expected seconds above 0, got {value!r}"
    if declared.crashes is not DEFAULT and (type(declared.crashes) is not int or declared.crashes < 1):
        yield f"crashes: expected a whole number, at least 1, got {declared.crashes!r}"
    if declared.delivery not in ("at_least_once", "at_most_once"):
        yield f'delivery: expected "at_least_once" or "at_most_once", got {declared.delivery!r}'
    if declared.runs_in not in ("loop", "thread", "process"):
        yield f'runs_in: expected "loop", "thread" or "process", got {declared.runs_in!r}'
    elif is_async and declared.runs_in != "loop":
        yield f'runs_in: an async function runs in the loop, not in a {declared.runs_in}; write it as a plain "def"'
    names = (
        (declared.key,) if isinstance(declared.key, str) else declared.key if isinstance(declared.key, tuple) else ()
    )
    for missing in sorted({name for name in names if name not in parameters}):
        yield f"key: there is no parameter {missing!r}; the function has: {', '.join(parameters) or 'none'}"
    if declared.key is not None and declared.delivery == "at_most_once":
        yield 'key: needs delivery="at_least_once", because a job that is lost would hold its key'


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
