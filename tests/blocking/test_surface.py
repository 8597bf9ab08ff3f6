"""The two surfaces: each asynchronous verb has a blocking form of the same name and with the same parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from taskcore import App, Job, SyncJob, Task
from taskcore.blocking import SyncApp, SyncDeadLetters, SyncTask
from taskcore.blocking.schedules import SyncSchedule, SyncSchedules
from taskcore.blocking.workflows import SyncRun, SyncWorkflows
from taskcore.deadletter import DeadLetters
from taskcore.schedules import Schedule, Schedules
from taskcore.task import ConfiguredTask
from taskcore.workflows import Run, Workflows

PAIRS: list[tuple[type, type]] = [
    (App, SyncApp),
    (Task, SyncTask),
    (ConfiguredTask, SyncTask),
    (Job, SyncJob),
    (DeadLetters, SyncDeadLetters),
    (Schedules, SyncSchedules),
    (Schedule, SyncSchedule),
    (Workflows, SyncWorkflows),
    (Run, SyncRun),
]
#: Makes the handle of a job from its id, without waiting; behind ``sync`` that is a blocking handle.
HANDLES = {"child", "job"}
#: What a schedule that was read answers without waiting; its blocking form answers the same.
PLAIN = {"explain", "preview"}
#: What an open app answers without waiting, or through an object of its own.
PROPERTIES = {"dead_letters", "features", "schedules"}
#: Its signals need the main thread, so its blocking form is a loop there: ``anyio.run(app.run_worker)``.
ONLY_ASYNC = {"run_worker"}


def verbs(cls: type) -> dict[str, Callable[..., Any]]:
    """Find the public methods whose caller has to await, to iterate or to enter something, or gets a job's handle."""
    found = inspect.getmembers_static(cls, inspect.isfunction)
    return {
        name: function
        for name, function in found
        if not name.startswith("_")
        and (
            name in HANDLES | PLAIN
            or inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(inspect.unwrap(function))
        )
    }


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """List names, kinds and defaults."""
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


def missing(asynchronous: type, blocking: type) -> set[str]:
    """Name the verbs that have no blocking form, or one with other parameters."""
    return {
        name
        for name, verb in verbs(asynchronous).items()
        if name not in ONLY_ASYNC
        and (not hasattr(blocking, name) or parameters(getattr(blocking, name)) != parameters(verb))
    }


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS, ids=lambda cls: cls.__name__)
def test_each_verb_has_a_blocking_form(asynchronous, blocking):
    """A new asynchronous verb without its blocking form fails here."""
    assert verbs(asynchronous)
    assert missing(asynchronous, blocking) == set()


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS, ids=lambda cls: cls.__name__)
def test_no_blocking_form_is_left_behind(asynchronous, blocking):
    """A blocking form whose asynchronous verb is gone or renamed fails here."""
    public = {name for name, _ in inspect.getmembers_static(blocking, inspect.isfunction) if not name.startswith("_")}
    assert public <= set(verbs(asynchronous))


def test_an_app_answers_the_same_without_waiting():
    """What an app says of itself while it is open has the same names behind ``sync``."""
    for name in PROPERTIES:
        assert isinstance(inspect.getattr_static(App, name), property)
        assert isinstance(inspect.getattr_static(SyncApp, name), property)
    assert App("memory://").sync.features.redeliveries


def test_a_missing_form_is_noticed():
    """The comparison finds a verb that is missing, and one whose parameters differ."""

    class NewJob(Job[Any]):
        async def pause(self) -> None: ...
        async def status(self, *, fresh: bool = False) -> Any: ...

    assert missing(NewJob, SyncJob) == {"pause", "status"}
