"""Jobs that jobs send: what they inherit, and how the log names them."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App, Context, current

pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app whose parent job sends children in several ways."""
    app = App("memory://", retry=1)
    app.seen = {}

    @app.task(name="child")
    async def child(name: str) -> None:
        app.seen[name] = current()

    @app.task(name="threaded")
    def threaded(name: str) -> None:
        app.seen[name] = current()
        child.sync.enqueue(f"{name}'s child")

    @app.task(name="parent")
    async def parent() -> None:
        app.seen["parent"] = current()
        await child.enqueue("plain")
        await child.using(correlation_id="own", headers={"tenant": "b", "x": "y"}).enqueue("own")
        await app.enqueue_many([child.call("batch"), threaded.call("threaded")])
        async with anyio.create_task_group() as group:
            group.start_soon(child.enqueue, "grouped")

    return app


async def play(app, **options) -> dict[str, Context]:
    """Send a parent and wait for all that follows from it."""
    async with app.running():
        await app.tasks["parent"].using(**options).enqueue()
        await app.drain(timeout=10)
    return app.seen


async def test_children_belong_to_what_their_parent_belongs_to(app):
    """A job that a job sends has its parent's correlation id and headers, unless it is given others, and its id."""
    seen = await play(app, correlation_id="order 7", headers={"tenant": "a", "trace": "t"})
    parent = seen["parent"]
    assert parent.parent_id is None
    for name in ("plain", "batch", "threaded", "grouped"):
        assert (seen[name].correlation_id, seen[name].parent_id) == ("order 7", parent.job_id)
        assert seen[name].headers == {"tenant": "a", "trace": "t"}
    assert (seen["own"].correlation_id, seen["own"].parent_id) == ("own", parent.job_id)
    assert seen["own"].headers == {"tenant": "b", "trace": "t", "x": "y"}
    assert seen["threaded's child"].parent_id == seen["threaded"].job_id
    assert seen["threaded's child"].correlation_id == "order 7"


async def test_a_job_without_a_correlation_id_founds_one(app):
    """The children of a job that belongs to nothing belong to it."""
    seen = await play(app)
    assert seen["parent"].correlation_id is None
    assert seen["plain"].correlation_id == seen["parent"].job_id
    assert seen["threaded's child"].correlation_id == seen["parent"].job_id


async def test_log_lines_name_the_lineage(app, caplog):
    """The worker's lines about a job have its ids, its task and its queue as attributes of the record."""

    @app.task(name="failing")
    async def failing() -> None:
        raise ZeroDivisionError

    @app.task(name="sender")
    async def sender() -> None:
        await failing.enqueue()

    with caplog.at_level(logging.INFO, "taskcore.worker"):
        async with app.running():
            parent = await sender.using(correlation_id="order 7").enqueue()
            await app.drain(timeout=10)
    [record] = [record for record in caplog.records if "is dead" in record.getMessage()]
    assert (record.task, record.queue, record.correlation_id, record.parent_id) == (
        "failing", "default", "order 7", parent.id,
    )  # fmt: skip
