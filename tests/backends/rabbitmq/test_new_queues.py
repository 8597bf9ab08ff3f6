"""New queues: they must be old enough before they get a job; a sender may stop waiting for that and try again."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App
from taskcore.backend import Outgoing, Stored
from taskcore.backends.rabbitmq import RabbitBackend, layout
from taskcore.connections.amqp.address import parse
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.connection import Connector
from taskcore.errors import BrokerUnavailable
from taskcore.faults import ChaosProxy
from taskcore.lifecycle import ACK

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240, func_only=True)]
MISTREATS = True  # the node


async def publish_until_stored(backend, queue, *, patience, within=20.0):
    """Publish a job, giving up after so many seconds each time, until it is stored; return how long that took."""
    began = anyio.current_time()
    with anyio.fail_after(within):
        while True:
            with anyio.move_on_after(patience):
                try:
                    [answer] = await backend.publish([Outgoing(queue, "1", b"the job")])
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
                else:
                    assert isinstance(answer, Stored)
                    return anyio.current_time() - began


async def take(source, within=15.0):
    """Return a job, through outages."""
    with anyio.fail_after(within):
        while True:
            try:
                return (await source.receive(1))[0]
            except BrokerUnavailable:
                await anyio.sleep(0.1)


async def until_made(node, queue, within=15.0):
    """Wait until a queue is there."""
    with anyio.fail_after(within):
        admin = AdminChannel(Connector(parse(node.url, {})[0]))
        try:
            while await admin.count(layout.job_queue(queue)) is None:  # noqa: ASYNC110 - the broker sends no event
                await anyio.sleep(0.05)
        finally:
            await admin.close()


async def test_a_short_timeout_still_enqueues_on_a_new_queue(node):
    """The age of a new queue does not begin anew with each try, and the wait outlives its caller (C4, C22)."""
    async with RabbitBackend(f"{node.url}?min_queue_age=2") as backend:
        assert await publish_until_stored(backend, "impatient", patience=0.8) >= 1.9


async def test_a_node_that_is_killed_before_a_queue_is_open(node):
    """Senders that give up sooner than a queue is old, and a kill before it is: their job runs when it is back (C4)."""
    url = f"{node.url}?min_queue_age=5"
    async with (
        RabbitBackend(url) as sender,
        RabbitBackend(url) as worker,
        worker.consume(["reborn"], lease=60) as source,
    ):
        with anyio.move_on_after(4.0):  # so old, the broker does not forget it
            await sender.publish([Outgoing("reborn", "1", b"the job")])
        node.kill()
        await anyio.sleep(2.0)  # attempts to open it meanwhile found no broker
        await node.start()
        await publish_until_stored(sender, "reborn", patience=3.0, within=40)
        delivery = await take(source)
        assert delivery.envelope == b"the job"
        assert not await source.settle([(delivery, ACK)])


async def test_an_outage_makes_a_queue_young_again(node):
    """A node that was away may have made its queues anew: their age counts from its return, for workers too (C1)."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/?min_queue_age=2"
        async with (
            RabbitBackend(url) as worker,
            RabbitBackend(f"{node.url}?min_queue_age=60") as sender,
            worker.consume(["young"], lease=60),
        ):
            await anyio.sleep(1.2)
            proxy.cut()
            assert await publish_until_stored(sender, "young", patience=0.3) >= 1.9


async def test_closing_ends_the_wait_for_a_queue(node):
    """A sender that waits for a young queue gets an error when the app closes, and nothing is left behind (C22)."""
    backend = RabbitBackend(f"{node.url}?min_queue_age=60")
    async with anyio.create_task_group() as group, backend:

        async def send():
            with pytest.raises(BrokerUnavailable):
                await backend.publish([Outgoing("closing", "1", b"the job")])

        group.start_soon(send)
        await until_made(node, "closing")


async def test_the_queues_of_an_app_are_opened_in_the_background(node):
    """The first job of a new queue does not wait once its app has been open for as long as a queue must be old."""
    app = App(f"{node.url}?min_queue_age=2", store="memory://", send_timeout=1)

    @app.task(queue="opened")
    async def work() -> None: ...

    async with app:
        await anyio.sleep(3)
        began = anyio.current_time()
        await work.enqueue()
        assert anyio.current_time() - began < 0.5


async def test_a_young_queue_is_no_silent_broker(node):
    """A new queue that is older than ``send_timeout`` before it takes a job delays it; the answer is not uncertain."""
    app = App(f"{node.url}?min_queue_age=2", store="memory://", send_timeout=0.5)

    @app.task(queue="patient")
    async def work() -> None: ...

    async with app:
        began = anyio.current_time()
        await work.enqueue()
        await work.using(queue="another").enqueue()
        assert anyio.current_time() - began > 1.5


async def test_the_delay_levels_of_an_empty_host_are_declared_side_by_side(node):
    """The first job of an empty virtual host waits for its queue's age, not for hundreds of round trips in turn."""
    await node.control("add_vhost", "empty")
    await node.control("set_permissions", "-p", "empty", "guest", ".*", ".*", ".*")
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/empty?min_queue_age=0.1"
        async with RabbitBackend(url) as backend:
            proxy.delay(0.025)  # each way: 600 round trips in turn are 30 s
            began = anyio.current_time()
            with anyio.fail_after(40):
                [answer] = await backend.publish([Outgoing("first", "1", b"the job")])
            assert isinstance(answer, Stored)
            assert anyio.current_time() - began < 15
            [answer] = await backend.publish([Outgoing("first", "2", b"later", delay=0.3)])
            assert isinstance(answer, Stored)
            async with backend.consume(["first"], lease=60) as source:
                found = [await take(source), await take(source)]
                assert {delivery.envelope for delivery in found} == {b"the job", b"later"}
                assert not await source.settle([(delivery, ACK) for delivery in found])
