"""Calling a plain function with its dependencies where it runs: in a thread, or in a process of its own."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from taskcore.dependencies.depends import name_of
from taskcore.dependencies.lifetimes import plain_value
from taskcore.dependencies.plan import Opening, OpeningKind
from taskcore.dependencies.shared import OpenDependencies, open_here
from taskcore.errors import InvalidContract

if TYPE_CHECKING:
    from taskcore.dependencies.wiring import Wiring

__all__ = ["call_here"]


def call_here(wiring: Wiring, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Open what the function needs, call it, and close, the last opened first.

    Plain dependencies are opened and closed here, in the thread of the function; async ones in the event loop.

    :raises InvalidContract: the function returned something to wait for, which would outlive its dependencies (TC303).
    """
    dependencies = open_here(wiring.function)
    plan = wiring.plan(dependencies.overrides)
    with ExitStack() as stack:
        values: list[Any] = []
        for opening in plan.openings:
            values.append(_value(opening, values, dependencies, stack))
        value = wiring.function(*args, **kwargs, **plan.arguments(values))
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise InvalidContract(
                f"{name_of(wiring.function)}() returned something to wait for, which would outlive its dependencies",
                fix='write it as "async def", so that it runs in the event loop',
            )
        return value


def _value(opening: Opening, values: list[Any], dependencies: OpenDependencies, stack: ExitStack) -> Any:
    arguments = opening.arguments(values)
    if opening.scope == "app":
        return dependencies.shared_value(opening, arguments)
    if opening.kind is OpeningKind.PLAIN:
        return plain_value(opening, arguments)
    if opening.kind is OpeningKind.GENERATOR:
        manager = contextmanager(opening.function)(**arguments)
        value = manager.__enter__()

        def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
            manager.__exit__(kind, error, trace)

        stack.push(leave)
        return value
    value, close = dependencies.open_async(opening, arguments)

    def leave_async(_: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        close(error)

    stack.push(leave_async)
    return value
