"""Wiring: the function that stands in a task's contract in place of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import wraps
from typing import Any

import anyio

from taskcore.dependencies.depends import Dependency, Function, name_of
from taskcore.dependencies.loop import call_in_loop
from taskcore.dependencies.plain_functions import call_here
from taskcore.dependencies.plan import OpeningPlan, plan_of
from taskcore.envelope import running
from taskcore.errors import InvalidArguments, InvalidContract

__all__ = ["Wiring", "wire"]


class Wiring:
    """A task's function, and what it needs.

    :param injected: its parameters that a worker fills in.
    """

    __slots__ = ("_plan", "_positional", "function", "injected", "signature")

    def __init__(self, function: Function, injected: Mapping[str, Dependency]) -> None:
        self.function = function
        self.injected = injected
        self.signature = inspect.signature(function)
        self._plan = plan_of(function, injected, {})
        self._positional = 0
        for each in self.signature.parameters.values():
            if each.name in injected or each.kind is each.KEYWORD_ONLY:
                break
            self._positional += 1

    def plan(self, overrides: Mapping[Function, Function]) -> OpeningPlan:
        """Return what to open, and in which order."""
        return plan_of(self.function, self.injected, overrides) if overrides else self._plan

    def visible(self) -> inspect.Signature:
        """Make the signature for callers: without what a worker fills in, and what follows that, by name only."""
        parameters = []
        for number, each in enumerate(self.signature.parameters.values()):
            if each.name not in self.injected:
                after = number >= self._positional and each.kind is each.POSITIONAL_OR_KEYWORD
                parameters.append(each.replace(kind=each.KEYWORD_ONLY) if after else each)
        return self.signature.replace(parameters=parameters)

    def is_complete(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Tell a call that brings the dependencies, as a test makes it, from one that leaves them to the worker.

        :raises InvalidArguments: it brings only some of them (TC302).
        """
        if len(args) <= self._positional and self.injected.keys().isdisjoint(kwargs):
            return False
        given = self.signature.bind(*args, **kwargs).arguments
        missing = [name for name in self.injected if name not in given]
        if missing:
            without = ", ".join(missing)
            raise InvalidArguments(
                f"{name_of(self.function)}() was called with some of its dependencies, and without {without}",
                fix="give all of them, or none in a job, where the worker opens them",
            )
        return True


def wire(function: Function) -> Function:
    """Make the function that a worker calls: it opens the dependencies, calls the task's own, and closes them.

    :raises InvalidContract: a dependency needs itself, or cannot be one (TC303).
    """
    parameters = inspect.signature(function).parameters.values()
    injected = {each.name: each.default for each in parameters if isinstance(each.default, Dependency)}
    hidden = [each.name for each in parameters if each.name in injected and each.kind is each.POSITIONAL_ONLY]
    if hidden:
        raise InvalidContract(
            f"{name_of(function)}(): dependencies are filled in by name, and {', '.join(hidden)} has none",
            fix="move it behind the /",
        )
    wiring = Wiring(function, injected)
    wired = _async_form(wiring) if inspect.iscoroutinefunction(function) else _plain_form(wiring)
    wired.__dict__.update(wiring=wiring, __signature__=wiring.visible())
    return wired


def _async_form(wiring: Wiring) -> Function:
    function = wiring.function

    @wraps(function)
    async def wired(*args: Any, **kwargs: Any) -> Any:
        if wiring.is_complete(args, kwargs):
            return await function(*args, **kwargs)
        return await call_in_loop(wiring, args, kwargs)

    return wired


def _plain_form(wiring: Wiring) -> Function:
    function = wiring.function

    @wraps(function)
    def wired(*args: Any, **kwargs: Any) -> Any:
        if wiring.is_complete(args, kwargs):
            return function(*args, **kwargs)
        if not _in_a_loop():
            return call_here(wiring, args, kwargs)
        if _runs_as_job(wired):
            return call_in_loop(wiring, args, kwargs)  # awaited by the worker
        raise InvalidArguments(
            f"{name_of(function)}() is a plain function, and was called in an event loop without its dependencies",
            fix=f"give them: {', '.join(f'{name}=…' for name in wiring.injected)}; or enqueue a job",
        )

    return wired


def _in_a_loop() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _runs_as_job(function: Function) -> bool:
    """Tell whether the job that runs here is one of this function, and the worker calls it."""
    job = running.get(None)
    return job is not None and job._task is not None and job._task.contract.function is function  # noqa: SLF001
