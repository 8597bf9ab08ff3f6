"""Calling a function with its dependencies in an event loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from taskcore.dependencies.depends import name_of
from taskcore.dependencies.lifetimes import closing_in_peace, plain_value
from taskcore.dependencies.plan import Opening, OpeningKind
from taskcore.dependencies.shared import LoopDependencies, open_here
from taskcore.errors import InvalidContract
from taskcore.worker.runners import FINISHED, finish

if TYPE_CHECKING:
    from taskcore.dependencies.wiring import Wiring

__all__ = ["call_in_loop"]


async def call_in_loop(wiring: Wiring, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Open what the function needs, call it, and close, the last opened first.

    What it raises, a cancellation too, is raised in the dependencies that are generators; none of them can hide it.
    """
    dependencies = open_here(wiring.function)
    if not isinstance(dependencies, LoopDependencies):
        raise InvalidContract(
            f"{name_of(wiring.function)}() was called in a process of a process task, without its dependencies",
            fix="give them by name, or enqueue a job",
        )
    plan = wiring.plan(dependencies.overrides)
    with closing_in_peace(name_of(wiring.function)) as protect:
        async with AsyncExitStack() as stack:
            values: list[Any] = []
            for opening in plan.openings:
                values.append(await _value(opening, values, dependencies, stack, protect))
            value = wiring.function(*args, **kwargs, **plan.arguments(values))
            return value if type(value) in FINISHED else await finish(value)


async def _value(
    opening: Opening,
    values: list[Any],
    dependencies: LoopDependencies,
    stack: AsyncExitStack,
    protect: Callable[[BaseException], None],
) -> Any:
    arguments = opening.arguments(values)
    if opening.scope == "app":
        return await dependencies.shared(opening, arguments)
    if opening.kind is OpeningKind.COROUTINE:
        return await opening.function(**arguments)
    if opening.kind is OpeningKind.PLAIN:
        return plain_value(opening, arguments)
    if opening.kind is OpeningKind.GENERATOR:
        return _enter_plain(opening, arguments, stack, protect)
    manager = asynccontextmanager(opening.function)(**arguments)
    value = await manager.__aenter__()

    async def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            protect(error)
        await manager.__aexit__(kind, error, trace)

    stack.push_async_exit(leave)
    return value


def _enter_plain(
    opening: Opening, arguments: dict[str, Any], stack: AsyncExitStack, protect: Callable[[BaseException], None]
) -> Any:
    manager = contextmanager(opening.function)(**arguments)
    value = manager.__enter__()

    def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            protect(error)
        manager.__exit__(kind, error, trace)

    stack.push(leave)
    return value
