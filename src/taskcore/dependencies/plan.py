"""The order in which the dependencies of a task are opened: each after those that it needs, each once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from taskcore.dependencies.depends import Dependency, DependencyScope, Function, name_of
from taskcore.errors import InvalidContract

__all__ = ["Opening", "OpeningKind", "OpeningPlan", "plan_of"]


class OpeningKind(Enum):
    """How a dependency gives its value."""

    ASYNC_GENERATOR = "async generator"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    PLAIN = "plain"


class Opening(NamedTuple):
    """One dependency of a plan.

    :param needs: its own parameters, and the numbers of the openings that give their values.
    """

    function: Function
    scope: DependencyScope
    kind: OpeningKind
    needs: tuple[tuple[str, int], ...]

    @property
    def is_async(self) -> bool:
        """Whether it needs an event loop."""
        return self.kind in (OpeningKind.ASYNC_GENERATOR, OpeningKind.COROUTINE)

    def arguments(self, values: list[Any]) -> dict[str, Any]:
        """Pick its arguments from the values of the openings before it."""
        return {name: values[number] for name, number in self.needs}


class OpeningPlan(NamedTuple):
    """What to open for a call of one function, in order, and which parameter gets what."""

    openings: tuple[Opening, ...]
    parameters: tuple[tuple[str, int], ...]

    def arguments(self, values: list[Any]) -> dict[str, Any]:
        """Pick the function's injected arguments from the values of all openings."""
        return {name: values[number] for name, number in self.parameters}


def plan_of(
    function: Function, parameters: Mapping[str, Dependency], overrides: Mapping[Function, Function]
) -> OpeningPlan:
    """Plan the openings for a function.

    :param parameters: its injected ones.
    :param overrides: functions that stand in for others.
    :raises InvalidContract: a function needs itself, or cannot be a dependency (TC303).
    """
    numbers: dict[tuple[Function, DependencyScope], int] = {}
    openings: list[Opening] = []

    def number_of(dependency: Dependency, path: tuple[Function, ...]) -> int:
        given = overrides.get(dependency.function, dependency.function)
        if given in path:
            circle = " → ".join(name_of(each) for each in (*path[path.index(given) :], given))
            raise InvalidContract(
                f"{name_of(function)}() has a dependency that needs itself: {circle}",
                fix="take one of them out of the circle",
            )
        known = numbers.get((given, dependency.scope))
        if known is not None:
            return known
        inner = _parameters_of(given)
        needs = tuple((name, number_of(each, (*path, given))) for name, each in inner.items())
        short = [name for name, number in needs if openings[number].scope == "job"]
        if dependency.scope == "app" and short:
            raise InvalidContract(
                f"{name_of(given)}() is opened once for a worker, and {', '.join(short)} for each job",
                fix='give what it needs scope="app" too',
            )
        openings.append(Opening(given, dependency.scope, _kind_of(given), needs))
        numbers[given, dependency.scope] = len(openings) - 1
        return len(openings) - 1

    taken = tuple((name, number_of(each, ())) for name, each in parameters.items())
    return OpeningPlan(tuple(openings), taken)


def _parameters_of(function: Function) -> dict[str, Dependency]:
    """Return the parameters of a dependency that are dependencies; all others have a default of their own."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin, which does not tell
        return {}
    wrong = [each.name for each in parameters if each.default is each.empty and each.kind not in VARIADIC]
    hidden = [each.name for each in parameters if isinstance(each.default, Dependency) and each.kind is POSITIONAL]
    if wrong or hidden:
        raise InvalidContract(
            f"{name_of(function)}() cannot be a dependency: no value for {', '.join(wrong or hidden)}",
            facts=["a worker calls it with its own dependencies only, and by name"],
            fix="give each parameter a default: Depends(…), or a value",
        )
    return {each.name: each.default for each in parameters if isinstance(each.default, Dependency)}


def _kind_of(function: Function) -> OpeningKind:
    for is_one, kind in KINDS:
        if is_one(function) or is_one(getattr(function, "__call__", None)):  # noqa: B004 - of an object, its class's
            return kind
    if any(is_one(inspect.unwrap(function)) for is_one, _ in KINDS):
        raise InvalidContract(
            f"{name_of(function)}() is decorated, so that its call returns neither a value nor a generator",
            fix="give Depends() the bare function, without @contextmanager or @asynccontextmanager",
        )
    return OpeningKind.PLAIN


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
KINDS: tuple[tuple[Callable[[Any], bool], OpeningKind], ...] = (
    (inspect.isasyncgenfunction, OpeningKind.ASYNC_GENERATOR),
    (inspect.iscoroutinefunction, OpeningKind.COROUTINE),
    (inspect.isgeneratorfunction, OpeningKind.GENERATOR),
)
