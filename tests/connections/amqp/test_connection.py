"""From a URL to connections: what is understood, what is refused, and what is never said."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from aiormq.base import FutureStore

from taskcore import App
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.address import parse
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.connection import Connector
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.errors import BrokerUnavailable, FeatureRefused, InvalidURL, StoreRequired


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("amqp://host/?heartbeat=30s", "heartbeat: expected a whole number"),
        ("amqp://host/?heartbeat=0", "heartbeat"),
        ("amqp://host/?heart_beat=30", "unknown option 'heart_beat'"),
        ("amqp://host/?no_verify_ssl=1", "unknown option 'no_verify_ssl'"),
        ("amqp://host/?timeout=nan", "timeout"),
        ("amqp://host/?queue_type=stream", "queue_type"),
        ("amqp://host/?limit=0", "limit"),
        ("amqp://host/?limit=-3", "limit"),
        ("amqp://host/?min_queue_age=-1", "min_queue_age"),
        ("amqp://host/?cafile=ca.pem", "cafile needs amqps"),
        ("amqps://host/?keyfile=key.pem", "keyfile needs certfile"),
        ("amqp://host/a/b", "%2F"),
        ("amqp://host:port/", "is not host"),
        ("amqp://one,,two/", "is not host"),
        ("amqp:///", "is not host"),
        ("amqp://host/?limit=1&limit=2", "twice"),
        ("amqp://host/#x", "fragment"),
    ],
)
def test_a_url_with_a_typo_is_refused(url, problem):
    """Each problem is named; what the client library would take for 0 or for "off" is refused here (Q22)."""
    with pytest.raises(InvalidURL) as caught:
        RabbitBackend(url)
    assert problem in str(caught.value)


def test_everything_in_a_url():
    """Hosts, credentials and virtual host are unquoted; the secret is in no text."""
    address, rest = parse("amqps://me:p%40ss@one,two:7,[::1]:8/a%2Fb?heartbeat=9&limit=3", {"limit": int})
    assert address.nodes == (("one", 5671), ("two", 7), ("::1", 8))
    assert (address.user, address.password, address.vhost, address.heartbeat) == ("me", "p@ss", "a/b", 9)
    assert rest == {"limit": 3}
    assert "p@ss" not in f"{address!r} {address.url}"
    assert "p%40ss" not in f"{address!r} {address.url}"


def test_trio_is_refused_with_a_reason():
    """The client library knows asyncio only."""

    async def main():
        async with RabbitBackend("amqp://127.0.0.1:1/"):
            pass

    with pytest.raises(FeatureRefused, match="trio"):
        anyio.run(main, backend="trio")


@pytest.mark.parametrize(
    ("kind", "store", "crashes", "refused"),
    [
        ("classic", "none", {"crashes": 3}, True),
        ("classic", "none", {}, False),
        ("classic", "memory://", {"crashes": 3}, False),
        ("quorum", "none", {"crashes": 3}, False),
    ],
)
def test_a_limit_of_crashes_needs_a_counter(kind, store, crashes, refused):
    """Classic queues do not count: a task with a limit is refused at the start, unless a store counts (C12)."""
    app = App(f"amqp://127.0.0.1:1/?timeout=1&queue_type={kind}", store=store)

    @app.task(**crashes)
    async def dangerous():
        """Do nothing."""

    async def main():
        async with app:
            pass

    with pytest.raises(StoreRequired if refused else BrokerUnavailable) as caught:
        anyio.run(main)
    if refused:
        assert "dangerous limits its crashes" in caught.value.what
        assert "store=" in caught.value.fix


@pytest.mark.anyio
async def test_a_call_whose_channel_is_lost_for_no_reason():
    """The client library ends such a call with a bare Exception: an outage. Other errors stay what they are."""
    connector = Connector(parse("amqp://127.0.0.1:1/", {})[0])
    calls = FutureStore(asyncio.get_running_loop())

    async def wait() -> None:
        await calls.create_task(asyncio.sleep(3_600))

    waiting = asyncio.ensure_future(connector.run("consuming", wait()))
    await asyncio.sleep(0.01)
    await calls.reject_all(None)
    with pytest.raises(BrokerUnavailable, match="consuming failed"):
        await waiting
    with pytest.raises(ValueError, match="ours"), connector.errors("consuming"):
        raise ValueError("ours")


def test_no_node_answers():
    """All nodes are tried, and the text says what each answered."""

    async def main():
        async with RabbitBackend("amqp://me:secret@127.0.0.1:1,127.0.0.1:2/?timeout=3"):
            pass

    with pytest.raises(BrokerUnavailable) as caught:
        anyio.run(main)
    assert "127.0.0.1:1:" in str(caught.value)
    assert "127.0.0.1:2:" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_named(node):
    """A refused login is an error at once."""

    async def main():
        async with RabbitBackend(f"amqp://guest:wrong@127.0.0.1:{node.port}/"):
            pass

    with pytest.raises(BrokerUnavailable, match="refused the login"):
        anyio.run(main)


def test_the_second_node_is_used(node):
    """A node that does not answer is passed over."""

    async def main():
        async with RabbitBackend(f"amqp://guest:guest@127.0.0.1:1,127.0.0.1:{node.port}/") as backend:
            return await backend.admin.stats(["nothing"])

    assert anyio.run(main)[0].ready == 0


def test_a_caller_that_is_cancelled_leaves_no_lock(node):
    """A lock that was granted after its caller was cancelled is released: the next process gets it."""

    async def main():
        connector = Connector(parse(node.url, {})[0])
        first, second = AdminChannel(connector), AdminChannel(connector)
        await first.count("nothing")
        for number in range(20):
            with anyio.move_on_after(number / 4_000):
                async with first.exclusive("tc.cancelled.reader"):
                    pass
            with anyio.fail_after(5):
                async with second.exclusive("tc.cancelled.reader"):
                    pass
        await first.close()
        await second.close()

    anyio.run(main)


def test_frames_are_read_as_they_are_written():
    """Packed and read again: body in parts, id, headers; half a frame is left for later."""
    pack = frames.MessagePacker(3, "exchange", "key", 4096).pack
    body = bytes(range(256)) * 40
    data = pack(b"id", {"tc-id": "job", "tc-trail": 7, "raw": b"\xff"}, body)
    found = list(frames.split_frames(data + data[:20]))
    assert [kind for kind, *_ in found[:4]] == [1, 2, 3, 3]
    properties = frames.read_properties(data[found[1][2] : found[1][3]])
    assert properties.message_id == b"id"
    assert properties.headers == {b"tc-id": b"job", b"tc-trail": 7, b"raw": b"\xff"}
    assert b"".join(data[start:end] for kind, _, start, end in found if kind == 3)[: len(body)] == body


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_half_of_the_properties_is_no_error(cut):
    """Whatever is in them, reading ends without an exception."""
    data = frames.MessagePacker(1, "", "q", 4096).pack(b"some id", {"a": 1, "b": "text"}, b"x")
    [_, (_, _, start, end), _] = frames.split_frames(data + b"\x00")
    frames.read_properties(data[start : max(start + 14, end - cut)])


@pytest.mark.anyio
async def test_a_connection_that_the_server_closes_takes_nothing_more(node):
    """A write behind the library's own last word finds a closed connection, not an error of the transport."""
    address, _ = parse(node.url, {})
    connection = await FilteredConnection.open(address, address.nodes[0], None, name="test")
    try:
        connection._writer.write_eof()
        with pytest.raises(ConnectionError, match="is being closed"):
            connection.write(frames.HEARTBEAT)
    finally:
        await connection.close()
