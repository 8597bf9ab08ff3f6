"""Isolated work has a task and a context of its own, and what it does to them does not reach its caller."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from taskcore.toolkit.isolation import UNFINISHED, Isolation, WorkCancelled, new_isolation
from taskcore.toolkit.shields import is_shielded

pytestmark = pytest.mark.anyio
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])

tenant: ContextVar[str] = ContextVar("tenant", default="none")


@pytest.fixture
async def isolation():
    """Make one isolation for the test."""
    made = new_isolation()
    yield made
    made.close()


async def run(isolation: Isolation, work: Any) -> Any:
    """Run some work to its end."""
    answer = isolation.start(work)
    return await isolation.finish() if answer is UNFINISHED else answer


async def test_returns_what_the_work_returns(isolation: Isolation):
    """Work that waits and work that does not return their value, one after the other."""

    async def at_once() -> str:
        return "at once"

    async def later() -> str:
        await anyio.sleep(0.001)
        return "later"

    assert [await run(isolation, work()) for work in (at_once, later, at_once, later)] == [
        "at once",
        "later",
        "at once",
        "later",
    ]


async def test_raises_what_the_work_raises(isolation: Isolation):
    """An error leaves the isolation as it is, before and after a wait, and the isolation can be used again."""

    async def fail(seconds: float) -> None:
        if seconds:
            await anyio.sleep(seconds)
        raise KeyError(seconds)

    for seconds in (0, 0.001, 0):
        with pytest.raises(KeyError):
            await run(isolation, fail(seconds))


@pytest.mark.parametrize("wait", [False, True])
async def test_context_is_a_copy(isolation: Isolation, wait: bool):
    """What the work sets stays its own, before and after a wait; what the caller has set is there."""

    async def work() -> list[str]:
        found = [tenant.get()]
        tenant.set("acme")
        if wait:
            await anyio.sleep(0.001)
        return [*found, tenant.get()]

    token = tenant.set("caller")
    assert [await run(isolation, work()) for _ in range(3)] == [["caller", "acme"]] * 3
    assert tenant.get() == "caller"
    tenant.reset(token)


@ASYNCIO
@pytest.mark.parametrize("wait", [False, True])
async def test_sees_a_task_of_its_own(isolation: Isolation, wait: bool):
    """The current task is one and the same during the work, and is not the caller's."""

    async def work() -> set[Any]:
        seen = {asyncio.current_task()}
        if wait:
            await asyncio.sleep(0.001)
        return seen | {asyncio.current_task()}

    seen = await run(isolation, work())

    assert len(seen) == 1
    assert asyncio.current_task() not in seen


@ASYNCIO
@pytest.mark.parametrize("wait", [False, True])
async def test_late_cancellation_hits_nothing(isolation: Isolation, wait: bool):
    """A timer that cancels the work's task after its end reaches neither the next work nor the caller."""

    async def leave_a_timer() -> str:
        task = asyncio.current_task()
        assert task is not None
        if wait:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        return "done"

    async def next_work() -> str:
        await asyncio.sleep(0.05)
        return "done, too"

    assert await run(isolation, leave_a_timer()) == "done"
    assert await run(isolation, next_work()) == "done, too"


@ASYNCIO
async def test_many_late_cancellations(isolation: Isolation):
    """However often work keeps its task for later, work that follows is not cancelled."""

    async def leave_a_timer(number: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        if number % 2:
            await asyncio.sleep(0)
        return number

    async def next_work(number: int) -> int:
        await asyncio.sleep(0)
        return number

    for number in range(50):
        with anyio.CancelScope():
            try:
                assert await run(isolation, leave_a_timer(number)) == number
            except WorkCancelled:  # it waited, and so its own timer reached it in time
                assert number % 2
        assert await run(isolation, next_work(number)) == number


@ASYNCIO
async def test_cancels_itself(isolation: Isolation):
    """Work that cancels its own task and waits is reported, and its caller is not cancelled."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(WorkCancelled):
        await run(isolation, work())
    await asyncio.sleep(0.001)


async def test_cancel_ends_the_work(isolation: Isolation):
    """Work that is cancelled ends at its next step; its caller goes on."""
    cleaned = []

    async def work() -> None:
        try:
            await anyio.sleep(30)
        finally:
            cleaned.append(1)

    async with anyio.create_task_group() as group:

        async def cancel_soon() -> None:
            await anyio.sleep(0.01)
            assert isolation.cancel()

        group.start_soon(cancel_soon)
        with anyio.fail_after(5), pytest.raises(WorkCancelled):
            await run(isolation, work())
    assert cleaned
    assert not isolation.cancel()


async def test_cancel_insists(isolation: Isolation):
    """Work that swallows its cancellation is cancelled again until it ends."""
    swallowed = []

    async def work() -> str:
        while len(swallowed) < 3:
            try:
                await anyio.sleep(30)
            except anyio.get_cancelled_exc_class():
                swallowed.append(1)
        return "gave up"

    async with anyio.create_task_group() as group:

        async def cancel_soon() -> None:
            await anyio.sleep(0.01)
            isolation.cancel()

        group.start_soon(cancel_soon)
        with anyio.fail_after(5):
            assert await run(isolation, work()) == "gave up"


async def test_shielded_work_is_not_cancelled(isolation: Isolation):
    """A part that anyio shields runs to its end, and the cancellation comes right after it."""
    reached = []

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
            reached.append("committed")
        await anyio.sleep(30)
        reached.append("never")

    async with anyio.create_task_group() as group:

        async def cancel_soon() -> None:
            await anyio.sleep(0.01)
            isolation.cancel()

        group.start_soon(cancel_soon)
        with anyio.fail_after(5), pytest.raises(WorkCancelled):
            await run(isolation, work())
    assert reached == ["committed"]


@ASYNCIO
async def test_shields_are_found():
    """A task inside of nested shields counts as shielded, one outside does not; on each supported anyio."""
    inside = anyio.Event()

    async def work(shield: bool) -> None:
        with anyio.CancelScope(shield=shield), anyio.CancelScope():
            inside.set()
            await anyio.sleep(30)

    for shield in (True, False):
        task = asyncio.get_running_loop().create_task(work(shield))
        await inside.wait()
        await asyncio.sleep(0)
        assert is_shielded(task) is shield
        task.cancel()
        await asyncio.wait({task})
        inside = anyio.Event()


async def test_caller_that_is_cancelled_ends_the_work(isolation: Isolation):
    """A cancelled caller cancels the work, waits for its end, and is cancelled then."""
    ended = []

    async def work() -> None:
        try:
            await anyio.sleep(30)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                ended.append(1)

    with anyio.move_on_after(0.02) as scope:
        await run(isolation, work())
    assert scope.cancelled_caught
    assert ended


@pytest.mark.parametrize("deadline", [None, 0.02])
async def test_scope_left_open(isolation: Isolation, deadline: float | None):
    """A cancel scope that the work leaves open reaches neither its caller nor the next work."""

    async def leave_open() -> str:
        scope = anyio.CancelScope() if deadline is None else anyio.fail_after(deadline)
        scope.__enter__()
        return "left"

    async def next_work() -> str:
        await anyio.sleep(0.06)
        return "done"

    for _ in range(3):
        assert await run(isolation, leave_open()) == "left"
    with anyio.CancelScope():
        assert await run(isolation, next_work()) == "done"


@ASYNCIO
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python has eager tasks")
async def test_spare_task_is_used_again(isolation: Isolation):
    """On Python 3.11 work that does not keep its task costs no new one; work that keeps it does."""
    kept = []

    async def work(keep: bool) -> int:
        if keep:
            kept.append(asyncio.current_task())
        return id(asyncio.current_task())

    first = {await run(isolation, work(keep=False)) for _ in range(20)}
    with_kept = {await run(isolation, work(keep=True)) for _ in range(20)}

    assert len(first) == 1
    assert len(with_kept) == 20
