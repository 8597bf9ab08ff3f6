"""What is opened once for a worker, and what its threads ask its event loop to open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel

from taskcore.dependencies.depends import Function, name_of
from taskcore.dependencies.lifetimes import HeldDependency, opened
from taskcore.dependencies.plan import Opening
from taskcore.errors import NotRunning
from taskcore.toolkit.logging import logger

__all__ = ["Close", "LoopDependencies", "OpenDependencies", "WorkerDependencies", "here", "open_here"]

log = logger("taskcore.dependencies")

Close = Callable[[BaseException | None], None]


class OpenDependencies(Protocol):
    """What a function without an event loop asks for its dependencies."""

    @property
    def overrides(self) -> Mapping[Function, Function]:
        """Which functions stand in for others."""
        ...

    def shared_value(self, opening: Opening, arguments: Mapping[str, Any]) -> Any:
        """Open a dependency of scope ``"app"``, or return its value if it is open."""
        ...

    def open_async(self, opening: Opening, arguments: Mapping[str, Any]) -> tuple[Any, Close]:
        """Open an async dependency of scope ``"job"``; return its value, and what closes it."""
        ...


#: Where the code that runs here finds what its worker, or its process, has open.
here: ContextVar[OpenDependencies] = ContextVar("taskcore.dependencies")


def open_here(function: Function) -> OpenDependencies:
    """Find what the worker around this code has open.

    :raises NotRunning: there is none, or it began before any of its tasks had a dependency (TC106).
    """
    found = here.get(None)
    if found is None:
        raise NotRunning(
            f"{name_of(function)}() was called without its dependencies, and no worker here opens them",
            facts=["a worker opens them if one of its tasks had a dependency when it began"],
            fix="in a test, give them by name; in a worker, declare the task before it starts",
        )
    return found


class LoopDependencies:
    """Dependencies in an event loop, each in a task of its own, so that any task may ask for it.

    :param group: where those tasks run.
    """

    def __init__(self, group: anyio.abc.TaskGroup, overrides: Mapping[Function, Function]) -> None:
        self.overrides = overrides
        self._group = group
        self._context = copy_context()
        self._shared: dict[Function, HeldDependency] = {}
        self._of_jobs: set[HeldDependency] = set()
        self.is_closed = False

    async def shared(self, opening: Opening, arguments: Mapping[str, Any]) -> Any:
        """Return the value of a dependency of scope ``"app"``, which the first caller opens and no caller interrupts.

        :raises BaseException: what it raised; the next caller opens it anew.
        """
        function = opening.function
        held = self._shared.get(function)
        if held is None:
            held = self._shared[function] = HeldDependency(opened(opening, arguments))
            self._context.run(self._start, held)  # not in that of the job that needs it first
        try:
            return await held.value()
        except BaseException:
            if held.has_failed and self._shared.get(function) is held:
                del self._shared[function]
            raise

    async def hold(self, opening: Opening, arguments: Mapping[str, Any]) -> tuple[Any, HeldDependency]:
        """Open an async dependency of scope ``"job"`` for a thread; return its value, and what holds it."""
        held = HeldDependency(opened(opening, arguments))
        self._of_jobs.add(held)
        self._start(held)
        try:
            return await held.value(), held
        except BaseException:
            self._of_jobs.discard(held)
            raise

    async def release(self, held: HeldDependency, error: BaseException | None) -> None:
        """Close what ``hold`` opened."""
        self._of_jobs.discard(held)
        await held.close(error)

    def _start(self, held: HeldDependency) -> None:
        self._group.start_soon(held.hold)

    async def aclose(self) -> None:
        """Close everything, the last opened first; an error is logged."""
        with anyio.CancelScope(shield=True):
            for held in reversed([*self._shared.values(), *self._of_jobs]):
                try:
                    await held.close(limited=True)
                except Exception:
                    log.exception("a dependency failed while it closed; the worker ends")
        self.is_closed = True


class WorkerDependencies(LoopDependencies):
    """Those of a worker, for the functions in its loop and in its threads."""

    def __init__(self, group: anyio.abc.TaskGroup, overrides: Mapping[Function, Function]) -> None:
        super().__init__(group, overrides)
        self._call: Callable[..., Any] = partial(anyio.from_thread.run, token=anyio.lowlevel.current_token())

    def shared_value(self, opening: Opening, arguments: Mapping[str, Any]) -> Any:
        """See :class:`OpenDependencies`; for threads."""
        return self._call(self.shared, opening, arguments)

    def open_async(self, opening: Opening, arguments: Mapping[str, Any]) -> tuple[Any, Close]:
        """See :class:`OpenDependencies`; for threads."""
        value, held = self._call(self.hold, opening, arguments)
        return value, partial(self._release_from_thread, held)

    def _release_from_thread(self, held: HeldDependency, error: BaseException | None) -> None:
        """Release, unless the worker has ended before this thread, and has closed everything by itself."""
        if not self.is_closed:
            self._call(self.release, held, error)
