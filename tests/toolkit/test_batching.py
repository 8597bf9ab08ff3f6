"""Group commit: batches without waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain

import anyio
import anyio.lowlevel
import pytest

from taskcore.toolkit.batching import Buffer, GroupCommit

pytestmark = pytest.mark.anyio


class Recorder:
    """Commits by remembering; each commit takes a moment."""

    def __init__(self, moment: float = 0.01) -> None:
        self.moment = moment
        self.batches: list[list[int]] = []
        self.begun = 0
        self.under_way = 0

    async def begins(self, number: int) -> None:
        """Wait until so many commits have begun."""
        while self.begun < number:
            await anyio.lowlevel.checkpoint()

    async def commit(self, batch: list[int]) -> list[int]:
        """Answer each item with ten times itself."""
        self.begun += 1
        self.under_way += 1
        assert self.under_way == 1, "two commits at once"
        try:
            await anyio.sleep(self.moment)
        finally:
            self.under_way -= 1
        self.batches.append(batch)
        if -1 in batch:
            raise ConnectionError("no")
        return [item * 10 for item in batch]


async def test_lone_item_leaves_at_once():
    """Without company an item is a batch of its own, without lingering."""
    recorder = Recorder()

    assert await GroupCommit(recorder.commit, limit=100).submit(1) == 10
    assert recorder.batches == [[1]]


async def test_company_shares_a_batch():
    """What arrives while a batch is in flight shares the next one, each with its own answer."""
    recorder, answers = Recorder(), {}
    group_commit = GroupCommit(recorder.commit, limit=100)

    async def submit(item: int) -> None:
        answers[item] = await group_commit.submit(item)

    async with anyio.create_task_group() as group:
        for item in range(50):
            group.start_soon(submit, item)

    assert answers == {item: item * 10 for item in range(50)}
    assert len(recorder.batches) == 2
    assert sorted(chain.from_iterable(recorder.batches)) == list(range(50))


async def test_batches_have_a_limit():
    """No batch is larger than the limit."""
    recorder = Recorder()
    group_commit = GroupCommit(recorder.commit, limit=7)

    async with anyio.create_task_group() as group:
        for item in range(50):
            group.start_soon(group_commit.submit, item)

    assert max(map(len, recorder.batches)) == 7
    assert sorted(chain.from_iterable(recorder.batches)) == list(range(50))


async def test_a_failed_batch_fails_its_own_items_only():
    """An error reaches every caller of the batch, and no other."""
    recorder, failed, succeeded = Recorder(), [], []
    group_commit = GroupCommit(recorder.commit, limit=2)

    async def submit(item: int) -> None:
        try:
            succeeded.append(await group_commit.submit(item))
        except ConnectionError:
            failed.append(item)

    async with anyio.create_task_group() as group:
        for item in [1, 2, -1, 3, 4, 5]:
            group.start_soon(submit, item)

    assert len(failed) in (1, 2)
    assert len(failed) + len(succeeded) == 6


async def test_a_lone_item_is_committed_although_its_caller_is_cancelled():
    """What is under way when its only caller is cancelled comes to its end."""
    recorder = Recorder()
    group_commit = GroupCommit(recorder.commit, limit=100)

    with anyio.move_on_after(0.001):
        await group_commit.submit(1)

    assert await group_commit.submit(2) == 20
    assert recorder.batches == [[1], [2]]


async def test_cancelling_a_lone_item_in_place_cancels_its_commit():
    """In place, a lone caller leaves at once when it is cancelled, and later callers are served."""
    recorder = Recorder(0.1)
    group_commit = GroupCommit(recorder.commit, limit=100, in_place=True)

    with anyio.move_on_after(0.001) as scope:
        await group_commit.submit(1)

    assert scope.cancelled_caught
    assert await group_commit.submit(2) == 20
    assert recorder.batches == [[2]]


async def three_with_a_leader(
    recorder: Recorder,
    group_commit: GroupCommit[int, int],
    stop: Callable[[], None],
    leader: Callable[[], Awaitable[object]],
) -> list[int]:
    """Let one caller go ahead alone; a leader and two others share the next batch; stop the leader."""
    answers = []

    async def follow(item: int) -> None:
        answers.append(await group_commit.submit(item))

    async with anyio.create_task_group() as group:
        group.start_soon(group_commit.submit, 1)
        await recorder.begins(1)
        group.start_soon(leader)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow, 3)
        group.start_soon(follow, 4)
        await recorder.begins(2)
        stop()
    return sorted(answers)


async def test_cancelling_the_leader_does_not_stop_the_batch():
    """A batch in flight is completed for the others, even if its leader is cancelled."""
    recorder, scope = Recorder(0.3), anyio.CancelScope()
    group_commit = GroupCommit(recorder.commit, limit=100)

    async def lead() -> None:
        with scope:
            await group_commit.submit(2)

    assert await three_with_a_leader(recorder, group_commit, scope.cancel, lead) == [30, 40]
    assert sorted(recorder.batches[1]) == [2, 3, 4]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_the_leader_of_a_batch_affects_no_other_caller():
    """Asyncio's own cancellation goes through anyio's shields, and must not reach the callers that share the batch."""
    recorder, leaders = Recorder(0.3), []
    group_commit = GroupCommit(recorder.commit, limit=100)

    async def lead() -> None:
        leaders.append(asyncio.create_task(group_commit.submit(2)))
        with suppress(asyncio.CancelledError):
            await leaders[0]

    assert await three_with_a_leader(recorder, group_commit, lambda: leaders.pop().cancel(), lead) == [30, 40]
    assert sorted(recorder.batches[1]) == [2, 3, 4]


async def test_the_end_of_an_abandoned_batch_can_be_awaited():
    """A batch whose callers were all cancelled goes on, and ``wait_closed`` waits for it."""
    recorder = Recorder(0.3)
    group_commit = GroupCommit(recorder.commit, limit=100)

    async with anyio.create_task_group() as group:
        for item in (1, 2, 3):
            group.start_soon(group_commit.submit, item)
        await recorder.begins(2)
        group.cancel_scope.cancel()
    await group_commit.wait_closed()

    assert [len(batch) for batch in recorder.batches] == [1, 2]


async def test_cancelling_a_waiter_takes_its_item_back():
    """An item whose batch has not left is surely not committed when its caller is cancelled."""
    batches: list[list[int]] = []
    first_may_end = anyio.Event()

    async def commit(batch: list[int]) -> list[int]:
        batches.append(batch)
        await first_may_end.wait()
        return batch

    group_commit = GroupCommit(commit, limit=1)
    async with anyio.create_task_group() as group:
        group.start_soon(group_commit.submit, 1)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.001):
            await group_commit.submit(2)
        group.start_soon(group_commit.submit, 3)
        first_may_end.set()

    assert batches == [[1], [3]]


async def test_collector_takes_everything_at_once():
    """What was handed over since the last look is one batch."""
    collector = Buffer[int](full=3)
    collector.put(1)
    collector.put(2)

    assert not collector.is_full
    assert await collector.take() == [1, 2]


async def test_collector_waits_and_closes():
    """Taking waits for an item; after closing it gives what is left, then nothing."""
    collector, taken = Buffer[int](full=3), []

    async def take() -> None:
        while batch := await collector.take():
            taken.append(batch)

    with anyio.fail_after(1):
        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await anyio.sleep(0.001)
            collector.put(1)
            await anyio.sleep(0.001)
            collector.put(2)
            collector.close()

    assert taken == [[1], [2]]
