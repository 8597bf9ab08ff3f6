"""A source on many queues of Redis asks once about all of them, and still finds whatever there is to do."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Outgoing
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK
from tests.support.redis_play import calls, held, key

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

QUEUES = [f"many-{number}" for number in range(40)]
LATE = 3.0  #: seconds; a source looks every 2.5 s, whatever was lost


async def test_a_lost_token_costs_one_look(own: RedisServer):
    """A job whose token is lost starts when the source looks the next time."""
    async with held(own.url, *QUEUES) as (backend, source):
        with anyio.move_on_after(0.5):
            await source.receive(10)
        await backend.publish([Outgoing(QUEUES[31], "job", b"x")])
        await command(own.port, "DEL", key(QUEUES[31], "wake"))
        with anyio.fail_after(LATE):
            [found] = await source.receive(10)
    assert found.queue == QUEUES[31]


async def test_a_lease_that_ends_is_noticed(own: RedisServer):
    """A job that another source leased and left comes when its lease ends, counted, without a token."""
    async with held(own.url, *QUEUES) as (backend, source):
        with anyio.move_on_after(0.5):
            await source.receive(10)
        async with backend.consume([QUEUES[17]], lease=1.5) as leaving:
            await backend.publish([Outgoing(QUEUES[17], "job", b"x")])
            await leaving.receive(1)
            began = anyio.current_time()
            with anyio.fail_after(1.5 + LATE):
                [found] = await source.receive(10)
    assert found.redeliveries == 1
    assert anyio.current_time() - began > 1.0


async def test_due_jobs_of_several_queues_come_in_time(own: RedisServer):
    """Delayed jobs start to the millisecond, also behind one that is due much later."""
    async with held(own.url, *QUEUES) as (backend, source):
        jobs = [Outgoing(QUEUES[number], f"job-{number}", b"x", b"", number / 5) for number in (30, 3, 6, 9)]
        began = anyio.current_time()
        await backend.publish(jobs)
        late = []
        for number in (3, 6, 9, 30):
            with anyio.fail_after(10):
                [found] = await source.receive(10)
            late.append(anyio.current_time() - began - number / 5)
            assert found.queue == QUEUES[number]
            await source.settle([(found, ACK)])
    assert min(late) >= 0
    assert max(late) < 0.3, late


async def test_earlier_queues_come_first(own: RedisServer):
    """Of jobs that wait in many queues, those of earlier queues are handed out first."""
    async with held(own.url, *QUEUES) as (backend, source):
        await backend.publish([Outgoing(queue, f"{queue}-{number}", b"x") for queue in QUEUES for number in range(3)])
        order = []
        while len(order) < 3 * len(QUEUES):
            batch = await source.receive(7)
            order += [one.queue for one in batch]
            await source.settle([(one, ACK) for one in batch])
    assert order == [queue for queue in QUEUES for _ in range(3)]


async def test_what_another_program_writes_is_found(own: RedisServer):
    """An entry without an id of ours comes too, although the question about all queues does not see it."""
    async with held(own.url, *QUEUES[:12]) as (backend, source):
        await backend.publish([Outgoing(QUEUES[11], "job", b"x")])
        await source.settle([(one, ACK) for one in await source.receive(10)])
        await command(own.port, "XADD", key(QUEUES[11], "jobs"), "*", "what", "ever")
        with anyio.fail_after(12):
            [found] = await source.receive(10)
    assert found.queue == QUEUES[11]


async def test_a_damaged_queue_stops_no_other(own: RedisServer):
    """Jobs of the queues before a damaged one arrive; jobs in hand are returned before its error."""
    async with held(own.url, *QUEUES) as (backend, source):
        with anyio.move_on_after(0.5):
            await source.receive(10)
        await command(own.port, "SET", key(QUEUES[20], "places"), "damaged")
        await command(own.port, "SET", key(QUEUES[20], "leases"), "damaged")
        await backend.publish([Outgoing(QUEUES[3], "job", b"x")])
        with anyio.fail_after(LATE):
            [found] = await source.receive(10)
    assert found.queue == QUEUES[3]


async def test_queues_that_disappear_are_reported(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """An idle source says when its queues were flushed, and goes on."""
    async with held(own.url, *QUEUES) as (backend, source):
        await backend.publish([Outgoing(queue, queue, b"x") for queue in QUEUES[:8]])
        while await source.receive(8) == []:
            pass
        with anyio.move_on_after(0.5):
            await source.receive(10)
        await command(own.port, "FLUSHALL")
        with caplog.at_level(logging.ERROR), anyio.move_on_after(LATE):
            await source.receive(10)
        assert sum("disappeared" in line for line in caplog.messages) == 8, caplog.messages
        await backend.publish([Outgoing(QUEUES[5], "next", b"x")])
        with anyio.fail_after(LATE):
            [found] = await source.receive(10)
    assert found.queue == QUEUES[5]


async def test_scheduled_jobs_everywhere_cost_no_requests(own: RedisServer):
    """A job for next year in each of many queues makes an idle source ask no more often."""
    async with open_backend(own.url) as backend, backend.consume(QUEUES, lease=60.0) as source:
        await backend.publish([Outgoing(queue, queue, b"x", b"", 365 * 86_400.0) for queue in QUEUES])
        with anyio.move_on_after(3):
            await source.receive(10)
        before = await calls(own.port, "evalsha", "blpop")
        with anyio.move_on_after(5):
            await source.receive(10)
        assert await calls(own.port, "evalsha", "blpop") - before <= 3 * (1 + 1 + 5)
