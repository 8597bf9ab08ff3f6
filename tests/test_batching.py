"""Group commit: batches without waiting for them."""

from __future__ import annotations

from itertools import chain

import anyio
import pytest

from taskcore.batching import Collector, GroupCommit

pytestmark = pytest.mark.anyio


class Recorder:
    """Commits by remembering; each commit takes a moment."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.under_way = 0

    async def commit(self, batch: list[int]) -> list[int]:
        """Answer each item with ten times itself."""
        self.under_way += 1
        assert self.under_way == 1, "two commits at once"
        await anyio.sleep(0.01)
        self.batches.append(batch)
        self.under_way -= 1
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
    """An error reaches everybody in the batch, and nobody outside of it."""
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


async def test_cancelling_the_leader_does_not_stop_the_batch():
    """A batch in flight is completed for the others, even if whoever led it is cancelled."""
    recorder, answers = Recorder(), []
    group_commit = GroupCommit(recorder.commit, limit=100)

    async def lead(scope: anyio.CancelScope) -> None:
        with scope:
            await group_commit.submit(1)

    async def follow() -> None:
        answers.append(await group_commit.submit(2))

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(lead, scope)
        await anyio.sleep(0.001)
        group.start_soon(follow)
        await anyio.sleep(0.001)
        scope.cancel()

    assert recorder.batches == [[1], [2]]
    assert answers == [20]


async def test_cancelling_a_waiter_takes_its_item_back():
    """An item whose batch has not left is surely not committed when its caller is cancelled."""
    recorder = Recorder()
    group_commit = GroupCommit(recorder.commit, limit=1)

    async with anyio.create_task_group() as group:
        group.start_soon(group_commit.submit, 1)
        await anyio.sleep(0.001)
        with anyio.move_on_after(0.001):
            await group_commit.submit(2)
        group.start_soon(group_commit.submit, 3)

    assert recorder.batches == [[1], [3]]


async def test_collector_takes_everything_at_once():
    """What was handed over since the last look is one batch."""
    collector = Collector[int](full=3)
    collector.put(1)
    collector.put(2)

    assert not collector.is_full
    assert await collector.take() == [1, 2]


async def test_collector_waits_and_closes():
    """Taking waits for an item; after closing it gives what is left, then nothing."""
    collector, taken = Collector[int](full=3), []

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
