"""What is special about RabbitMQ: its messages, its arguments, its limits."""

from __future__ import annotations

import asyncio
import struct

import aiormq
import anyio
import pytest

from taskcore.backend import Outgoing, Refused, Stored
from taskcore.backends.rabbitmq import RabbitBackend, layout
from taskcore.backends.rabbitmq.publish import MAX_JOB
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.address import parse
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.connection import Connector
from taskcore.errors import BrokerUnavailable
from taskcore.faults import ChaosProxy
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ON_NEWER = {
    "test_undecodable_properties_are_delivered",
    "test_a_job_that_the_broker_buries_is_a_dead_letter",
    "test_given_back_very_often",
    "test_as_large_as_it_may_be",
    "test_a_letter_that_was_late_before",
}


@pytest.fixture
def url(node):
    """Return the URL of the node, with queues that need no age."""
    return f"{node.url}?min_queue_age=0.1&timeout=5"


async def raw(node, *commands):
    """Call functions on a channel as another program does, with the client library alone."""
    connection = await aiormq.connect(node.url)
    try:
        channel = await connection.channel()
        return [await command(channel) for command in commands]
    finally:
        await connection.close()


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


async def test_a_queue_with_other_arguments_is_reported(node, url):
    """An existing queue is never changed; the difference is in the text, and nothing starts (F25)."""
    await raw(
        node,
        lambda channel: channel.queue_declare(
            layout.job_queue("other"), durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 7}
        ),
    )
    async with RabbitBackend(url) as backend:
        with pytest.raises(BrokerUnavailable) as caught:
            async with backend.consume(["other"], lease=60):
                pass
        assert "x-" in str(caught.value)
        assert "exists with other arguments" in str(caught.value)
        with pytest.raises(BrokerUnavailable, match="other arguments"):
            await backend.publish([Outgoing("other", "1", b"x")])


async def test_a_full_queue_refuses(url):
    """Above the limit a job is refused, surely not stored; there may be a few more than the limit (Q19)."""
    async with RabbitBackend(f"{url}&limit=10") as backend:
        for number in range(14):
            answers = await backend.publish([Outgoing("full", str(number), b"x")])
        assert isinstance(answers[0], Refused)
        assert "full" in answers[0].why
        async with backend.consume(["full"], lease=60) as source:
            [delivery] = await source.receive(1)
            assert not await source.settle([(delivery, Reschedule(0.0, b"again"))]), (
                "a retry finds its place all the same"
            )
        await backend.admin.delete("full")


async def test_a_delay_beyond_the_levels_is_refused(url):
    """Nothing is silently made earlier than it was asked for."""
    async with RabbitBackend(url) as backend:
        far, near = await backend.publish(
            [Outgoing("far", "1", b"x", b"", 10 * 365 * 86_400.0), Outgoing("far", "2", b"x")]
        )
        assert isinstance(far, Refused)
        assert near == Stored()
        await backend.admin.delete("far")


def test_delays_are_rounded_up_to_a_unit():
    """The way of a delay goes through the levels of its bits, the highest first, and ends."""
    assert layout.delay_units(0.125) == 1
    assert layout.delay_units(0.126) == 2
    assert layout.delay_units(5e-324) == 1
    assert layout.delay_route(layout.delay_units(10.0)) == {"tc-in": "6", "tc-6": "4", "tc-4": "due"}
    assert len(layout.delay_route(layout.delay_units(layout.MAX_DELAY))) == layout.LEVELS + 1


@pytest.mark.parametrize("steps", [1, 2, 3, 80, 2**30, 2**31 - 1])
def test_every_way_through_the_levels_is_bound(steps):
    """Behind each level exactly one binding fits the headers of a job, and the levels add up to its delay."""
    route, at, waited = layout.delay_route(steps), None, 0
    while at != layout.DUE:
        nexts = layout.level_bindings(None if at is None else int(at.rpartition(".")[2]))
        [at] = [
            place
            for place, wanted in nexts.items()
            if all(route.get(name) == value for name, value in wanted.items() if name != "x-match")
        ]
        waited += 0 if at == layout.DUE else 2 ** int(at.rpartition(".")[2])
    assert waited == steps


async def test_a_level_that_was_deleted_is_made_again(node, url):
    """Deleted by hand: delayed jobs are refused, surely not stored, and then it is there again (F24)."""
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing("level", "1", b"before")])
        await raw(node, lambda channel: channel.queue_delete(layout.level(3)))
        with anyio.fail_after(15):
            while not isinstance((await backend.publish([Outgoing("level", "2", b"after", b"", 1.0)]))[0], Stored):
                pass
            async with backend.consume(["level"], lease=60) as source:
                found = []
                while len(found) < 2:
                    found += await source.receive(2)
                await source.settle([(delivery, ACK) for delivery in found])
        assert {delivery.envelope for delivery in found} == {b"before", b"after"}
        await backend.admin.delete("level")


async def test_names_that_end_alike_are_not_mixed_up(url):
    """A job for the queue ``x.y`` does not come to ``y``, now or later."""
    async with RabbitBackend(url) as backend:
        for queue in ("y", "x.y"):
            await backend.publish([Outgoing(queue, queue, queue.encode(), b"", delay) for delay in (0.0, 0.2)])
        await anyio.sleep(1.0)
        for queue in ("y", "x.y"):
            async with backend.consume([queue], lease=60) as source:
                found = []
                with anyio.move_on_after(1.0):
                    while True:
                        batch = await source.receive(5)
                        found += batch
                        await source.settle([(delivery, ACK) for delivery in batch])
                assert [delivery.envelope for delivery in found] == [queue.encode()] * 2
            await backend.admin.delete(queue)


async def test_a_purge_says_what_it_cannot_reach(url, caplog):
    """What waits in the delay levels is not purged, and comes; the log says so, and is silent if nothing waits."""
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing("purged", "0", b"ready")])
        assert await backend.admin.purge("purged") == 1
        assert "cannot be purged" not in caplog.text
        await backend.publish([Outgoing("purged", "1", b"later", b"", 3.0), Outgoing("purged", "2", b"ready")])
        assert await backend.admin.purge("purged") == 1
        assert "queue purged: 1 ready jobs were purged; scheduled jobs cannot be purged" in caplog.text
        assert "1 wait in this virtual host" in caplog.text
        async with backend.consume(["purged"], lease=60) as source:
            with anyio.fail_after(10):
                [late] = await source.receive(2)
            assert late.envelope == b"later"
            await source.settle([(late, ACK)])
        await backend.admin.delete("purged")


# ── what others write ────────────────────────────────────────────────────────────────────────────


def foreign(channel, queue, headers, *, flags=0, rest=b"", body=b"foreign"):
    """Pack a message that no decent library would send."""
    method = struct.pack(">HHH", 60, 40, 0) + frames.short_string("") + frames.short_string(queue) + b"\x00"
    properties = struct.pack(">HHQH", 60, 0, len(body), flags | 1 << 13) + struct.pack(">I", len(headers)) + headers
    properties += rest
    return (
        frames.method_frame(channel, method)
        + frames.FRAME_HEAD.pack(2, channel, len(properties)) + properties + frames.FRAME_END
        + frames.FRAME_HEAD.pack(3, channel, len(body)) + body + frames.FRAME_END
    )  # fmt: skip


STRANGE = {
    "a header that is not UTF-8": (b"\x02\xff\xfeS\x00\x00\x00\x02\xff\xff", 0, b""),
    "a time in nanoseconds": (b"", 1 << 6, struct.pack(">Q", 1_700_000_000_000_000_000)),
    "an app id that is not UTF-8": (b"", 1 << 3, b"\x02\xff\xfe"),
    "priority 255": (b"", 1 << 11, b"\xff"),
    "our own headers, lying": (b"\x08tc-trail" + b"l" + struct.pack(">q", 10**9), 0, b""),
    "a negative trail": (b"\x08tc-trail" + b"l" + struct.pack(">q", -5), 0, b""),
}


@pytest.mark.parametrize("what", STRANGE)
async def test_undecodable_properties_are_delivered(url, what):
    """Properties that end the client library's connection are handed out with their body, as are neighbours (F51)."""
    queue = "strange"
    headers, flags, rest = STRANGE[what]
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing(queue, "before", b"before")])
        connection = await Connector(parse(url.partition("?")[0], {})[0]).connect("a stranger")
        channel = FilteredChannel(connection, await connection.channel())
        channel.write(foreign(channel.number, layout.job_queue(queue), headers, flags=flags, rest=rest))
        await channel.sync()
        await connection.close()
        await backend.publish([Outgoing(queue, "after", b"after")])
        async with backend.consume([queue], lease=60) as source:
            found = []
            with anyio.fail_after(10):
                while len(found) < 3:
                    found += await source.receive(3)
            assert {delivery.envelope for delivery in found} == {b"before", b"foreign", b"after"}
            assert {delivery.redeliveries for delivery in found} == {0}, "a connection was lost on the way"
            await source.settle([(delivery, Bury("strange", b"")) for delivery in found])
        letters = await backend.admin.letters(queue, limit=10)
        assert {letter.envelope for letter in letters} == {b"before", b"foreign", b"after"}
        await backend.admin.delete(queue)


async def test_a_queue_that_is_deleted_under_a_worker_is_made_again(node, url):
    """Deleted by hand while a worker waits for jobs: the next job is stored and comes (F24)."""
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing("gone", "1", b"before")])
        async with backend.consume(["gone"], lease=60) as source:
            [delivery] = await source.receive(1)
            await source.settle([(delivery, ACK)])
            await raw(node, lambda channel: channel.queue_delete(layout.job_queue("gone")))
            await backend.publish([Outgoing("gone", "2", b"after")])  # makes it anew, before the worker learns of it
            with anyio.fail_after(15):
                [delivery] = await source.receive(1)
            assert delivery.envelope == b"after"
            await source.settle([(delivery, ACK)])
        await backend.admin.delete("gone")


# ── letters ──────────────────────────────────────────────────────────────────────────────────────


async def test_many_letters_are_read_in_order_by_many(url):
    """More letters than one window, read by several at a time: each sees all of them, in order."""
    async with RabbitBackend(url) as backend, RabbitBackend(url) as other:
        count = 700
        await backend.publish([Outgoing("many", str(number), b"%d" % number) for number in range(count)])
        async with backend.consume(["many"], lease=60) as source:
            done = 0
            while done < count:
                batch = await source.receive(200)
                done += len(batch)
                await source.settle([(delivery, Bury("so", b"")) for delivery in batch])
        seen: list[list[bytes]] = []

        async def read(connection):
            page, found = [], []
            while page := await connection.admin.letters("many", limit=500, after=page[-1].id if page else None):
                found += [letter.envelope for letter in page]
            seen.append(found)

        async with anyio.create_task_group() as group:
            for connection in (backend, other, backend):
                group.start_soon(read, connection)
        assert [len(found) for found in seen] == [count] * 3
        assert seen[0] == seen[1] == seen[2]
        await backend.admin.delete("many")


async def test_a_job_that_the_broker_buries_is_a_dead_letter(node, url):
    """A job over the delivery limit ends among the dead letters, with a reason (F32)."""
    await raw(
        node,
        lambda channel: channel.queue_declare(
            "tc.q.limited",
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": 1,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": layout.dead_queue("limited"),
            },
        ),
        lambda channel: channel.queue_declare(layout.dead_queue("limited"), durable=True, arguments=layout.DEAD),
        lambda channel: channel.basic_publish(b"tired", routing_key="tc.q.limited"),
        lambda channel: channel.basic_qos(prefetch_count=1),
    )
    for _ in range(3):

        async def give_back(channel):
            message = await channel.basic_get("tc.q.limited")
            if message.delivery_tag is not None:
                await channel.basic_reject(message.delivery_tag, requeue=True)

        await raw(node, give_back)
        await anyio.sleep(0.2)
    async with RabbitBackend(url) as backend:
        with anyio.fail_after(10):
            while not (letters := await backend.admin.letters("limited", limit=5)):  # noqa: ASYNC110 - no event
                await anyio.sleep(0.1)
        assert letters[0].envelope == b"tired"
        assert letters[0].reason.startswith("delivery limit")


async def give_back(node, queue, times):
    """Take a job and return it, again and again, as another program."""

    async def taking(channel):
        given = 0
        with anyio.fail_after(20):
            while given < times:
                message = await channel.basic_get(layout.job_queue(queue))
                if message.delivery_tag is not None:
                    await channel.basic_reject(message.delivery_tag, requeue=True)
                    given += 1

    await raw(node, taking)


async def test_a_letter_that_was_late_before(node, url):
    """What the broker moved from delay to delay and buries at last says why it died, not why it was late (F32)."""
    queue = "late"
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": layout.dead_queue(queue),
    }
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing("levels", "1", b"makes the levels")])
        await backend.admin.delete("levels")
        await raw(
            node,
            lambda channel: channel.queue_declare(layout.job_queue(queue), durable=True, arguments=arguments),
            lambda channel: channel.queue_declare(layout.dead_queue(queue), durable=True, arguments=layout.DEAD),
            lambda channel: channel.queue_bind(layout.job_queue(queue), layout.DUE, queue),
            lambda channel: channel.exchange_bind(layout.DELAY, layout.SCHEDULE, queue),
            lambda channel: channel.basic_publish(
                b"late",
                exchange=layout.SCHEDULE,
                routing_key=queue,
                properties=aiormq.spec.Basic.Properties(headers=layout.delay_route(3)),
            ),
        )
        await give_back(node, queue, 2)
        with anyio.fail_after(10):
            while not (letters := await backend.admin.letters(queue, limit=5)):  # noqa: ASYNC110 - no event
                await anyio.sleep(0.1)
        assert [(letter.envelope, letter.reason[:14]) for letter in letters] == [(b"late", "delivery limit")]


async def test_given_back_very_often(node, url):
    """A job comes back more often than the broker's own limit allows, which is 20 since version 4, and is not lost."""
    async with RabbitBackend(url) as backend:
        await backend.publish([Outgoing("often", "1", b"often")])
        await give_back(node, "often", 25)
        async with backend.consume(["often"], lease=60) as source:
            with anyio.fail_after(10):
                [found] = await source.receive(1)
            assert (found.envelope, found.redeliveries) == (b"often", 25)
            await source.settle([(found, ACK)])


async def test_as_large_as_it_may_be(url):
    """The largest job that we send is taken by each version; one byte more is refused here, and harms no other."""
    async with RabbitBackend(url) as backend:
        for size, answer in ((MAX_JOB, Stored), (MAX_JOB + 1, Refused)):
            [given] = await backend.publish([Outgoing("large", str(size), b"x" * size)])
            assert isinstance(given, answer)
        async with backend.consume(["large"], lease=60) as source:
            with anyio.fail_after(20):
                [found] = await source.receive(1)
            assert len(found.envelope) == MAX_JOB
            await source.settle([(found, ACK)])


# ── holding ──────────────────────────────────────────────────────────────────────────────────────


async def test_unwanted_prefetched_jobs_go_to_other_sources(url):
    """Jobs that were pushed to a source that asks no more reach another source, and count no redelivery."""
    async with RabbitBackend(url) as backend, RabbitBackend(url) as other:
        await backend.publish([Outgoing("idle", str(number), b"%d" % number) for number in range(10)])
        async with backend.consume(["idle"], lease=60) as busy, other.consume(["idle"], lease=60) as free:
            held = list(await busy.receive(10))
            while len(held) < 10:
                held += await busy.receive(10 - len(held))
            await busy.settle([(delivery, ACK) for delivery in held[:5]])
            await backend.publish([Outgoing("idle", f"x{number}", b"x%d" % number) for number in range(5)])
            found = []
            with anyio.fail_after(5):
                while len(found) < 5:
                    found += await free.receive(5)
            assert {delivery.redeliveries for delivery in found} == {0}
            await free.settle([(delivery, ACK) for delivery in found])
            assert not await busy.settle([(delivery, RELEASE) for delivery in held[5:]])
        await backend.admin.delete("idle")


async def test_no_stale_delivery_after_a_lost_connection(node):
    """Jobs that came through a lost connection are never handed out, and settling them changes nothing (F36)."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/?min_queue_age=0.1&timeout=3"
        async with RabbitBackend(url) as backend:
            await backend.publish([Outgoing("cut", str(number), b"%d" % number) for number in range(6)])
            async with backend.consume(["cut"], lease=60) as source:
                held = list(await source.receive(6))
                while len(held) < 6:
                    held += await source.receive(6 - len(held))
                proxy.cut()
                found = []
                with anyio.fail_after(15):
                    while len(found) < 6:
                        try:
                            found += await source.receive(6)
                        except BrokerUnavailable:
                            await anyio.sleep(0.05)
                assert len(await source.settle([(delivery, ACK) for delivery in held])) == 6
                assert {delivery.redeliveries for delivery in found} == {1}
                assert not await source.settle([(delivery, ACK) for delivery in found])
            assert (await backend.admin.stats(["cut"]))[0].ready == 0
            await backend.admin.delete("cut")


async def test_a_silent_connection_is_noticed(node):
    """A network that swallows everything is noticed after two heartbeats, whatever TCP believes (F37)."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/?min_queue_age=0.1&heartbeat=1&timeout=2"
        async with RabbitBackend(url) as backend:
            await backend.publish([Outgoing("silent", "1", b"x")])
            async with backend.consume(["silent"], lease=60) as source:
                [held] = await source.receive(1)
                proxy.black_hole()
                await anyio.sleep(3.5)
                assert await source.extend([held]), "a connection that is dead still held its jobs"
                await proxy.heal()
                found = []
                with anyio.fail_after(15):
                    while not found:
                        try:
                            found = await source.receive(1)
                        except BrokerUnavailable:
                            await anyio.sleep(0.1)
                assert not await source.settle([(found[0], ACK)])
            await backend.admin.delete("silent")


async def test_a_flapping_link_loses_nothing_and_leaks_nothing(node):
    """Cut again and again under load: what was confirmed comes, and no task stays behind (F41)."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/?min_queue_age=0.1&timeout=3"
        stored, seen, over = set(), set(), False

        async def send(backend):
            number = 0
            while not over:
                number += 1
                job = Outgoing("flap", str(number), b"%d" % number)
                try:
                    [answer] = await backend.publish([job])
                except BrokerUnavailable:
                    continue
                finally:
                    await anyio.sleep(0.01)
                if isinstance(answer, Stored):
                    stored.add(job.envelope)

        async def take(backend):
            async with backend.consume(["flap"], lease=60) as source:
                while not over or stored - seen:
                    try:
                        with anyio.move_on_after(0.5):
                            for delivery in await source.receive(10):
                                seen.add(delivery.envelope)  # first: settling goes on when we are cancelled
                                await source.settle([(delivery, ACK)])
                    except BrokerUnavailable:
                        await anyio.sleep(0.05)

        async with RabbitBackend(url) as backend:
            await backend.publish([Outgoing("flap", "0", b"0")])
            with anyio.fail_after(40):
                async with anyio.create_task_group() as group:
                    group.start_soon(send, backend)
                    group.start_soon(take, backend)
                    for _ in range(10):
                        await anyio.sleep(0.3)
                        proxy.cut()
                    over = True
            assert stored, "nothing was stored between the cuts"
            assert stored - seen == set()
            await backend.admin.delete("flap")
    await anyio.sleep(0.2)
    assert [
        task
        for task in asyncio.all_tasks()
        if any(name in repr(task) for name in ("amqp", "rabbitmq", "aiormq", "aio_pika"))
    ] == []
