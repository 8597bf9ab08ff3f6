"""Many waiting jobs and many letters on NATS: looking at them costs a handful of requests.

TASKCORE_MANY_WAITING=1000000 runs the same tests with so many jobs; that takes minutes.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Final
from unittest.mock import patch

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Outgoing
from taskcore.connections.nats import NatsLink
from taskcore.envelope import new_id
from taskcore.lifecycle import Bury

WAITING: Final = int(os.environ.get("TASKCORE_MANY_WAITING", "3000"))
AT_ONCE: Final = 5_000  #: jobs that are sent at a time

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + WAITING // 2_000)]


@contextmanager
def counting():
    """Count the requests to JetStream's API, and the bytes of its answers."""
    calls, answers = [], []
    api_all = NatsLink.api_all

    async def count(self, requests, **options):
        calls.extend(name for name, _ in requests)
        found = await api_all(self, requests, **options)
        answers.extend(found)
        return found

    with patch.object(NatsLink, "api_all", count):
        yield calls, answers


async def send(backend, queue, count, **options):
    """Send so many jobs."""
    for start in range(0, count, AT_ONCE):
        number = min(AT_ONCE, count - start)
        await backend.publish([Outgoing(queue, new_id(), b"job", **options) for _ in range(number)])


async def test_counting_before_the_first_worker(nats):
    """Without a worker ready and scheduled jobs are counted by few requests, and no subject is listed."""
    queue = f"q{new_id()}"
    async with open_backend(nats.url) as backend:
        await send(backend, queue, WAITING)
        await send(backend, queue, 7, delay=3600.0)
        began = time.monotonic()
        with counting() as (calls, answers):
            [stats, absent] = await backend.admin.stats([queue, "absent"])
        assert time.monotonic() - began < 4.0
        assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (WAITING, 0, 7, 0)
        assert stats.oldest is not None
        assert absent.unfinished == 0
        assert len(calls) <= 8, calls
        assert not any((answer.get("state") or {}).get("subjects") for answer in answers)
        async with backend.consume([queue], lease=30.0) as source:
            held = await source.receive(10)
            [stats] = await backend.admin.stats([queue])
            assert stats.unfinished == WAITING + 7
            assert stats.leased >= len(held)
        await backend.admin.delete(queue)


async def test_reading_many_letters(nats):
    """Letters are read many at a time, also where most of them are gone."""
    queue, count = f"q{new_id()}", 600
    async with open_backend(nats.url) as backend:
        await send(backend, queue, count)
        async with backend.consume([queue], lease=30.0) as source:
            done = 0
            with anyio.fail_after(30):
                while done < count:
                    batch = await source.receive(200)
                    done += len(batch)
                    await source.settle([(delivery, Bury("so", b"")) for delivery in batch])
        with counting() as (calls, _):
            async with backend.admin.walk(queue) as walk:
                found = []
                while page := await walk.page(250):
                    found += page
        assert len({letter.id for letter in found}) == count
        assert len(calls) <= 1.2 * count
        async with backend.admin.walk(queue) as walk:
            assert (
                await walk.drop([letter for number, letter in enumerate(found) if number % 50]) == count - count // 50
            )
        with counting() as (calls, _):
            left = await backend.admin.letters(queue, limit=100)
        assert [letter.id for letter in left] == [letter.id for letter in found[::50]]
        assert len(calls) <= 20 * len(left)
        await backend.admin.delete(queue)
