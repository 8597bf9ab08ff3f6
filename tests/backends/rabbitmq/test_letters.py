"""Thousands of dead letters on RabbitMQ, which shows a letter only by handing it out.

TASKCORE_MANY_LETTERS=200000 runs the same tests with so many letters; that takes minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

import anyio
import msgspec
import pytest

from taskcore import App
from taskcore.backend import Outgoing
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.backends.rabbitmq.layout import dead_queue
from taskcore.backends.rabbitmq.letters import BROWSED_AT_ONCE, BrowsingChannel
from taskcore.backends.rabbitmq.messages import message_of
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.envelope import Envelope, encode_envelope, new_id

LETTERS: Final = int(os.environ.get("TASKCORE_MANY_LETTERS", "3000"))
AT_ONCE: Final = 5_000  #: letters that are written at a time

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + LETTERS // 200)]


@pytest.fixture
def url(node):
    """Return the URL of the node, with queues that need no age."""
    return f"{node.url}?min_queue_age=0.1"


async def bury(backend, queue, count):
    """Write so many dead letters of a queue, as a worker would."""
    await backend.publish([Outgoing(queue, "first", b"first")])
    await backend.admin.purge(queue)
    for start in range(0, count, AT_ONCE):
        jobs = []
        for number in range(start, min(count, start + AT_ONCE)):
            envelope = Envelope(
                v=1, id=new_id(), task="ship", queue=queue, args=msgspec.Raw(b'{"number":%d}' % number), enqueued_at=0.0
            )
            jobs.append(Outgoing(queue, envelope.id, encode_envelope(envelope)))
        answers = await backend._connections.sender.send([message_of(job, reason=b"exhausted") for job in jobs])
        assert len(answers) == len(jobs)


async def dead(backend, queue):
    """Count the dead letters of a queue."""
    [stats] = await backend.admin.stats([queue])
    return stats.dead


@contextmanager
def counting():
    """List the channel of each letter that is handed out meanwhile."""
    seen = []
    on_message = BrowsingChannel.on_message

    def count(self, *args, **options):
        if self._browser.queue != "tc.queues":
            seen.append(self.number)
        on_message(self, *args, **options)

    with patch.object(BrowsingChannel, "on_message", count):
        yield seen


async def test_a_read_that_is_cut_hides_no_letters(url):
    """Reading and passes that a time limit cuts, anywhere, give back every letter at once, to all connections."""
    queue = "cut.reads"
    async with RabbitBackend(url) as backend, RabbitBackend(url) as other:
        await bury(backend, queue, LETTERS)
        app = App(other, store="none")
        async with app:
            for seconds in (0.002, 0.02, 0.05, 0.1, 0.2):
                with anyio.move_on_after(seconds):
                    async for _ in app.dead_letters.read(queue):
                        pass
                assert await dead(backend, queue) == LETTERS, f"a read that was cut after {seconds} s"
                with anyio.move_on_after(seconds):
                    async with other.admin.walk(queue) as walk:
                        while await walk.page(100):
                            pass
                        await anyio.sleep(60)
                assert await dead(backend, queue) == LETTERS, f"a pass that was cut after {seconds} s"
        await backend.admin.delete(queue)


async def test_a_cancelled_task_hides_no_letters(url):
    """What asyncio cancels gives back its letters, too."""
    queue = "cut.tasks"
    async with RabbitBackend(url) as backend:
        await bury(backend, queue, LETTERS)
        for seconds in (0.01, 0.1):

            async def read():
                async with backend.admin.walk(queue) as walk:
                    while await walk.page(100):
                        pass
                    await anyio.sleep(60)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(), seconds)
            assert await dead(backend, queue) == LETTERS
        await backend.admin.delete(queue)


async def test_a_page_costs_no_more_than_it_reads(url):
    """The first letters of thousands, and one letter of them, are read without the others."""
    queue = "first.page"
    async with RabbitBackend(url) as backend:
        await bury(backend, queue, LETTERS)
        with counting() as seen:
            async with backend.admin.walk(queue) as walk:
                [letter] = await walk.page(1)
            assert len(seen) <= BROWSED_AT_ONCE
            assert await backend.admin.letter(letter.id) == letter
            assert len(seen) <= 2 * BROWSED_AT_ONCE
            assert await backend.admin.drop(letter.id)
        assert len(seen) <= 3 * BROWSED_AT_ONCE + 1  # what is dropped makes room for one more
        assert await dead(backend, queue) == LETTERS - 1
        await backend.admin.delete(queue)


async def test_thousands_are_settled_in_one_pass(url):
    """Dropping, keeping and replaying thousands of letters hands each out once; the rest returns in its order."""
    queue = "one.pass"
    async with RabbitBackend(url) as backend:
        await bury(backend, queue, LETTERS)
        app = App(backend, store="none")
        async with app:
            with counting() as seen:
                settled = await app.dead_letters.settle(
                    queue, by=lambda letter: ("keep", "drop", "replay")[letter.args["number"] % 3]
                )
            assert len(seen) == LETTERS
            thirds = [len(range(first, LETTERS, 3)) for first in range(3)]
            assert [settled.kept, settled.dropped, settled.replayed, settled.failed] == [*thirds, 0]
            [stats] = await backend.admin.stats([queue])
            assert (stats.ready, stats.dead, stats.scheduled) == (settled.replayed, settled.kept, None)
            with counting() as seen:
                numbers = [letter.args["number"] async for letter in app.dead_letters.read(queue)]
            assert numbers == list(range(0, LETTERS, 3))
            assert len(seen) <= (4 + settled.kept // 2_000) * settled.kept
            [cause] = await app.dead_letters.causes(queue)
            assert cause.letters == settled.kept
            await backend.admin.delete(queue)


async def test_no_channel_holds_a_whole_pass(url):
    """A pass settles letters at an even pace: to settle one, a server searches all that its channel holds.

    On one channel 40,000 letters took 34 s, and 5,000 took 1.1 s; now they take 3.6 s and 0.6 s.
    """
    queue = "many.channels"
    async with RabbitBackend(url) as backend:
        await bury(backend, queue, LETTERS)
        with counting() as seen, patch("taskcore.backends.rabbitmq.letters.PAGES_ON_A_CHANNEL", 1):
            async with backend.admin.walk(queue) as walk:
                while page := await walk.page(BROWSED_AT_ONCE):
                    assert await walk.drop(page[1::2]) == BROWSED_AT_ONCE // 2
        assert len(seen) == LETTERS
        assert max(Counter(seen).values()) <= 2 * BROWSED_AT_ONCE  # what is dropped makes room for more
        assert await dead(backend, queue) == LETTERS // 2
        await backend.admin.delete(queue)


async def test_a_pass_ends_when_its_letters_are_back(url):
    """A server that returns letters slowly is waited for: the next pass reads as many as it counts when it begins."""
    queue, counts = "slow.returns", []
    async with RabbitBackend(url) as backend:
        await bury(backend, queue, LETTERS)
        count = AdminChannel.count

        async def slow_count(self, name):
            whole = await count(self, name)
            if name == dead_queue(queue):
                counts.append(min(whole, len(counts) * LETTERS // 100))
                return counts[-1]
            return whole

        with ExitStack() as slowly:
            async with backend.admin.walk(queue) as walk:
                while await walk.page(BROWSED_AT_ONCE):
                    pass
                slowly.enter_context(patch.object(AdminChannel, "count", slow_count))
        assert counts[-1] == LETTERS, f"a pass ended when {counts[-1]} of {LETTERS} letters were back"
        with counting() as seen:
            async with backend.admin.walk(queue) as walk:
                while await walk.page(BROWSED_AT_ONCE):
                    pass
        assert len(seen) == LETTERS
        await backend.admin.delete(queue)
