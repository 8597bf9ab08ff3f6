"""What the adapter uses of aio-pika and aiormq beyond their documentation: a release without it fails here first.

The list is that of docs/adr/0008-frames-below-aio-pika.md.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import aio_pika
import aiormq
import pytest
from aio_pika.connection import make_url

import taskcore
from taskcore.connections.amqp.address import parse
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.connection import Connector
from taskcore.connections.amqp.frames import MessagePacker

pytestmark = [pytest.mark.anyio]

CLIENTS = {"aio_pika", "aiormq", "pamqp"}
#: Every name that is imported from them.
IMPORTED = {
    "aio_pika.abc": {"AbstractChannel"},
    "aio_pika.connection": {"make_url"},
    "aio_pika.exceptions": {
        "AMQPError",
        "ChannelNotFoundEntity",
        "ChannelPreconditionFailed",
        "InvalidFrameError",
        "ProbableAuthenticationError",
    },
    "aiormq.exceptions": {"ChannelAccessRefused", "ChannelLockedResource"},
    "aio_pika": {"Connection", "abc"},
    "aiormq": {"TransportFactory"},
    "pamqp.exceptions": {"PAMQPException"},
}


def imported(path: Path) -> dict[str, set[str]]:
    """List the names that a file takes from the libraries."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in CLIENTS:
            found.setdefault(node.module, set()).update(alias.name for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in CLIENTS:
            found.setdefault(node.value.id, set()).add(node.attr)
    return found


def test_no_other_name_is_imported():
    """The adapter takes nothing from the libraries but what is listed, and all of it exists."""
    root, found = Path(taskcore.__file__).parent, dict[str, set[str]]()
    for folder in ("connections/amqp", "backends/rabbitmq"):
        for path in (root / folder).glob("*.py"):
            for module, names in imported(path).items():
                found.setdefault(module, set()).update(names)
    assert found == IMPORTED
    for module, names in IMPORTED.items():
        for name in names:
            assert hasattr(import_module(module), name), f"{module} has no {name}"


async def test_the_transport_of_a_connection_can_be_given():
    """aio-pika passes ``kwargs`` on to aiormq, which asks the factory in them for its streams."""

    class Factory(aiormq.TransportFactory):
        async def create(self, url, **_):
            raise ConnectionRefusedError(f"asked for {url.host}")

    connection = aio_pika.Connection(make_url("amqp://me:secret@nowhere.invalid:1/?heartbeat=7&name=n"))
    connection.kwargs["transport_factory"] = Factory()
    with pytest.raises(ConnectionRefusedError, match="asked for nowhere"):
        await connection.connect()
    await connection.close()


async def test_what_the_server_said_is_at_hand(node):
    """The negotiated size of frames, and what the server says of itself, are attributes of the transport."""
    connection = await Connector(parse(node.url, {})[0]).connect("names")
    assert connection.server_properties["product"] == "RabbitMQ"
    assert connection.server_properties["version"][0].isdigit()
    assert connection.frame_max == 131_072
    channel = await connection.channel()
    queue = await channel.declare_queue("names", exclusive=True)
    assert queue.declaration_result.message_count == 0
    await connection.close()


async def test_a_filtered_channel_is_one_of_the_library(node):
    """Numbers of channels are the protocol's; what is asked through the library beside the filter is answered."""
    admin = AdminChannel(Connector(parse(node.url, {})[0]))
    connection = await admin.connection.open()
    first, second = await connection.channel(), await connection.channel(confirms=True)
    assert {first.number, second.number} == {1, 2}
    assert await admin.count("no such queue") is None
    assert await admin.is_empty("no such queue")
    assert await admin.has_exchange("amq.direct")
    await admin.close()
    with pytest.raises(RuntimeError, match="closed"):
        await admin.connection.open()


async def test_two_writers_share_one_stream(node):
    """Frames of the filter and of the library never mix within a frame, however large the filter's writes are."""
    connection = await Connector(parse(node.url, {})[0]).connect("two writers")
    channel, asking = FilteredChannel(connection, await connection.channel()), await connection.channel()
    queue = await asking.declare_queue("two writers", exclusive=True)
    pack = MessagePacker(channel.number, "", "two writers", connection.frame_max).pack
    for number in range(20):
        channel.write(pack(b"%d" % number, {}, b"x" * 700_000))
        await asking.get_queue("two writers")
    await channel.sync()
    assert not connection.is_closed
    assert (await asking.get_queue("two writers")).declaration_result.message_count == 20
    await queue.purge()
    await connection.close()
