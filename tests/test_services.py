"""Services: they start in order, stop in the reverse order, and an error of one is never silent."""

from __future__ import annotations

import logging

import anyio
import anyio.abc
import pytest

from taskcore import App, NotRunning
from taskcore.services import Service, serving
from taskcore.worker.hosting import WorkerChoice, worker_options
from taskcore.worker.worker import Worker

pytestmark = pytest.mark.anyio


class Part:
    """A service that notes what happens to it."""

    def __init__(self, name: str, noted: list[str], *, breaks: str = "") -> None:
        self.name, self.noted, self.breaks = name, noted, breaks
        self.broken = anyio.Event()

    def __repr__(self) -> str:
        return f"<Part {self.name}>"

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve, or break before or after it is ready."""
        self.noted.append(f"{self.name} starts")
        try:
            await anyio.lowlevel.checkpoint()
            if self.breaks == "before":
                raise ZeroDivisionError(self.name)
            self.noted.append(f"{self.name} is ready")
            task_status.started()
            if self.breaks == "after":
                self.broken.set()
                raise ZeroDivisionError(self.name)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.noted.append(f"{self.name} stops")


IN_ORDER = ["a starts", "a is ready", "b starts", "b is ready"]
IN_REVERSE = ["b stops", "a stops"]


def app_with(*services: Service) -> App:
    """Make an app to which a feature has added services."""
    app = App("memory://")
    app.components.services.extend(services)
    return app


async def test_an_app_runs_its_services_while_it_is_open():
    """They start in order, each when the one before is ready, and stop in the reverse order before the app closes."""
    noted: list[str] = []
    app = app_with(Part("a", noted), Part("b", noted))
    async with app:
        async with app:  # entering an open app again starts nothing again
            assert noted == IN_ORDER
        assert noted == IN_ORDER
    assert noted == [*IN_ORDER, *IN_REVERSE]
    async with app:
        assert noted == [*IN_ORDER, *IN_REVERSE, *IN_ORDER]


async def test_a_service_may_use_the_app():
    """The app sends and answers before its first service starts, and until its last one has stopped."""
    app = App("memory://")
    seen: list[int] = []

    @app.task(name="work")
    async def work() -> None: ...

    class Sender:
        async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            await work.enqueue()
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await work.enqueue()
                    seen.append((await app.stats()).ready)

    app.components.services.append(Sender())
    async with app:
        assert (await app.stats()).ready == 1
    assert seen == [2]
    with pytest.raises(NotRunning):
        await app.stats()


async def test_another_task_may_close_the_app():
    """Services belong to no task of the program: one may open the app, and another one close it."""
    noted: list[str] = []
    app = app_with(Part("a", noted), Part("b", noted))
    async with anyio.create_task_group() as group:
        group.start_soon(app.__aenter__)
    async with anyio.create_task_group() as group:
        assert noted == IN_ORDER
        group.start_soon(app.__aexit__, None, None, None)
    assert noted == [*IN_ORDER, *IN_REVERSE]


async def test_a_failed_service_is_logged_and_the_app_goes_on(caplog):
    """An error of a running service is logged with its traceback; the others serve until the app closes."""
    noted: list[str] = []
    broken = Part("b", noted, breaks="after")
    app = app_with(Part("a", noted), broken, Part("c", noted))
    with caplog.at_level(logging.ERROR, logger="taskcore.services"):
        async with app:
            await broken.broken.wait()
            await anyio.wait_all_tasks_blocked()
            assert "b stops" in noted
            assert "a stops" not in noted
            assert (await app.stats()).ready == 0
    [record] = [one for one in caplog.records if one.name == "taskcore.services"]
    assert record.getMessage().startswith("<Part b> failed and has ended")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert noted[-2:] == ["c stops", "a stops"]


async def test_a_service_that_cannot_start_keeps_the_app_closed():
    """Its error is raised as it is; services that were ready are stopped, later ones never start."""
    noted: list[str] = []
    app = app_with(Part("a", noted), Part("b", noted, breaks="before"), Part("c", noted))
    with pytest.raises(ZeroDivisionError, match="b"):
        await app.__aenter__()
    assert noted == ["a starts", "a is ready", "b starts", "b stops", "a stops"]
    with pytest.raises(NotRunning):
        await app.stats()


async def test_an_opening_that_is_cancelled_stops_its_services():
    """A caller that gives up waiting for a slow service leaves nothing behind."""
    noted: list[str] = []

    class Slow(Part):
        async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                self.noted.append("slow stops")

    app = app_with(Part("a", noted), Slow("slow", noted))
    with anyio.move_on_after(0.05) as scope:
        await app.__aenter__()
    assert scope.cancelled_caught
    assert noted[:2] == ["a starts", "a is ready"]
    assert sorted(noted[2:]) == ["a stops", "slow stops"]


async def test_a_worker_runs_services():
    """A worker starts its services before its first job, and stops them in the reverse order after its last."""
    noted: list[str] = []
    app = App("memory://")

    @app.task(name="work")
    async def work() -> None:
        noted.append("works")

    async with app:
        options = worker_options(app.settings, app.tasks, WorkerChoice())
        worker = Worker(app.components, app.tasks, options, services=[Part("a", noted), Part("b", noted)])
        job = await work.enqueue()
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            await job.result(timeout=5)
            worker.stop()
    assert noted == [*IN_ORDER, "works", *IN_REVERSE]


async def test_a_failed_service_ends_its_block():
    """In a block, as in a worker, an error of a service interrupts what runs beside it and is raised."""
    noted: list[str] = []
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
        async with serving([Part("a", noted), Part("b", noted, breaks="after")]):
            await anyio.sleep_forever()
    assert noted == [*IN_ORDER, *IN_REVERSE]
