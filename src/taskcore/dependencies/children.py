"""Dependencies in a process that runs jobs: opened there, because no connection and no model can cross over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from functools import partial
from typing import Any

import anyio
import anyio.abc
from anyio.from_thread import start_blocking_portal

from taskcore.dependencies.depends import Function, name_of
from taskcore.dependencies.lifetimes import plain_value
from taskcore.dependencies.plan import Opening, OpeningKind
from taskcore.dependencies.shared import Close, LoopDependencies, here
from taskcore.errors import InvalidSetting
from taskcore.toolkit.logging import logger

__all__ = ["close_in_process", "open_in_process", "refuse_overrides"]

log = logger("taskcore.dependencies")


def open_in_process() -> None:
    """Let the functions that this process runs find their dependencies."""
    if not _OPEN:
        _OPEN.append(ProcessDependencies())
    here.set(_OPEN[0])


def close_in_process() -> None:
    """Close what the process has kept for all its jobs; an error is logged."""
    while _OPEN:
        try:
            _OPEN.pop().close()
        except Exception:
            log.exception("a dependency failed while it closed; the process ends")


def refuse_overrides(function: Function) -> None:
    """Refuse to run a function in a process of its own in place of whose dependencies others stand here.

    :raises InvalidSetting: it would get the real ones there (TC104).
    """
    with suppress(LookupError):
        overrides = here.get().overrides
        plain = function.__dict__["wiring"].plan({})
        replaced = [name_of(one.function) for one in plain.openings if one.function in overrides]
        if replaced:
            raise InvalidSetting(
                f"{name_of(function)}() runs in a process of its own, where no override of this process holds",
                facts=[f"overridden here: {', '.join(replaced)}"],
                fix='test the function itself, with its dependencies given by name; or use runs_in="thread"',
            )


class ProcessDependencies:
    """See :class:`taskcore.dependencies.shared.OpenDependencies`. Its event loop begins with the first async one."""

    def __init__(self) -> None:
        self.overrides: Mapping[Function, Function] = {}
        self._values: dict[Function, Any] = {}
        self._exits = ExitStack()
        self._call: Callable[..., Any] | None = None
        self._loop: LoopDependencies

    def shared_value(self, opening: Opening, arguments: Mapping[str, Any]) -> Any:
        """Open it once for this process, outside of the job that needs it first."""
        if opening.function not in self._values:
            self._values[opening.function] = Context().run(self._open, opening, arguments)
        return self._values[opening.function]

    def open_async(self, opening: Opening, arguments: Mapping[str, Any]) -> tuple[Any, Close]:
        """Open it in the event loop of this process."""
        call = self._in_loop()
        value, held = call(self._loop.hold, opening, arguments)
        return value, partial(call, self._loop.release, held)

    def close(self) -> None:
        """Close everything, the last opened first."""
        self._values.clear()
        self._exits.close()

    def _open(self, opening: Opening, arguments: Mapping[str, Any]) -> Any:
        if opening.is_async:
            value, close = self.open_async(opening, arguments)
            self._exits.callback(close, None)
            return value
        if opening.kind is OpeningKind.GENERATOR:
            return self._exits.enter_context(contextmanager(opening.function)(**arguments))
        return plain_value(opening, arguments)

    def _in_loop(self) -> Callable[..., Any]:
        if self._call is None:
            portal = self._exits.enter_context(start_blocking_portal())
            _, (self._loop, ended) = portal.start_task(_serve)
            self._exits.callback(portal.call, ended.set)
            self._call = portal.call
        return self._call


async def _serve(*, task_status: anyio.abc.TaskStatus[tuple[LoopDependencies, anyio.Event]]) -> None:
    ended = anyio.Event()
    async with anyio.create_task_group() as group:
        task_status.started((LoopDependencies(group, {}), ended))
        await ended.wait()


_OPEN: list[ProcessDependencies] = []
