"""The names below redis-py's public API that ``connections/redis`` uses: see docs/adr/0007.

These tests need no server. They run with the installed redis-py and with the lowest version that is supported.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

import taskcore
from taskcore.connections.redis.refusals import MEANINGS, refused
from taskcore.connections.redis.sockets import TcpConnection, is_closed

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

#: Private attributes of redis-py's objects, by the module that uses them.
KNOWN = {"connections/redis/sockets.py": {"_reader", "_writer"}}


@asynccontextmanager
async def connected(answer: bytes = b"+OK\r\n") -> AsyncIterator[tuple[TcpConnection, list[asyncio.StreamWriter]]]:
    """Connect to a server that answers OK, and then this; yield the connection and the server's end of it."""
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        while data := await reader.read(1000):
            writer.write((answer if b"PING" in data else b"+OK\r\n") * data.count(b"*"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = TcpConnection(host="127.0.0.1", port=server.sockets[0].getsockname()[1], protocol=2)
    await connection.connect()
    try:
        yield connection, ends
    finally:
        await connection.disconnect()
        for end in ends:
            end.transport.abort()
        server.close()
        await asyncio.sleep(0)


async def test_a_connection_has_a_reader_and_a_writer():
    """``_reader`` and ``_writer`` are asyncio's streams while the connection is open."""
    async with connected() as (connection, _):
        assert isinstance(connection._reader, asyncio.StreamReader)
        assert isinstance(connection._writer, asyncio.StreamWriter)
        assert not is_closed(connection)


async def test_a_connection_that_the_server_closed_is_seen():
    """``is_closed`` sees the end of the stream without reading from it."""
    async with connected() as (connection, ends):
        ends[0].close()
        async with asyncio.timeout(2):
            while not is_closed(connection):  # noqa: ASYNC110 - the connection offers no event
                await asyncio.sleep(0.01)


async def test_disconnect_aborts_the_transport():
    """A disconnected connection leaves nothing open, even with bytes that its server does not take."""
    async with connected() as (connection, _):
        writer = connection._writer
        assert writer is not None
        await connection.disconnect()
        await asyncio.sleep(0.01)
        assert writer.transport.is_closing()
        assert writer.transport.get_extra_info("socket").fileno() == -1
        assert is_closed(connection)


@pytest.mark.parametrize("kind", [Connection, SSLConnection, UnixDomainSocketConnection])
async def test_all_kinds_disconnect_in_the_same_way(kind: type[AbstractConnection]):
    """``disconnect`` is inherited, takes ``nowait`` first, and can be overridden once for all kinds."""
    assert kind.disconnect is AbstractConnection.disconnect
    assert next(name for name in inspect.signature(kind.disconnect).parameters if name != "self") == "nowait"


@pytest.mark.parametrize(
    "answer",
    [*(f"{kind} some words" for kind in (*MEANINGS, "WRONGPASS", "NOSCRIPT")), "MOVED 1 host:1", "ASK 1 host:1"],
)
async def test_an_error_answer_keeps_its_first_word(answer: str):
    """The first word of an error answer is known, whether redis-py removes it from the text or not."""
    async with connected(b"-%b\r\n" % answer.encode()) as (connection, _):
        await connection.send_command("PING", check_health=False)
        with pytest.raises(exceptions.RedisError) as caught:
            await connection.read_response()
    word = answer.partition(" ")[0]
    assert refused(caught.value, "here").kind == ("NOAUTH" if word == "WRONGPASS" else word)


async def test_no_other_private_name_is_used():
    """No module that imports redis-py touches a private attribute that is not its own, except the listed ones."""
    root = Path(taskcore.__file__).parent
    found: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if not any(module.split(".")[0] == "redis" for module in modules):
            continue
        private = {name for name in dir(Connection(host="nowhere")) if name.startswith("_") and not name.endswith("__")}
        names = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in private and not _is_self(node, path)
        } | {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in private}
        if names:
            found[path.relative_to(root).as_posix()] = names
    assert found == KNOWN


def _is_self(node: ast.Attribute, path: Path) -> bool:
    """Tell whether it is an attribute of our own object; in sockets.py our class derives from redis-py's."""
    return isinstance(node.value, ast.Name) and node.value.id == "self" and path.name != "sockets.py"
