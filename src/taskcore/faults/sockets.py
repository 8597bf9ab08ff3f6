"""Plain TCP sockets on either event loop, for what streams hide: resets, single packets, ports."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from contextlib import suppress

import anyio

__all__ = ["HOST", "accept", "ask", "close", "connect", "free_port", "listen", "receive", "send"]

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
SERVER_PORTS = range(12_000, 32_000)  #: below what systems give to connections: from 32,768 on, or from 49,152
TRIED_PORTS = 1_000
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  #: SO_LINGER: closing does not wait, and sends RST


def free_port() -> int:
    """Find a port of the loopback that is free at the moment.

    It is none that the system gives to a connection: one would take it while a server is down that wants it back.
    """
    for _ in range(TRIED_PORTS):
        port = _choice(SERVER_PORTS)
        with socket.socket() as one, suppress(OSError):
            one.bind((HOST, port))
            return port
    raise OSError(f"none of {TRIED_PORTS} ports of {HOST} is free")


#: Not the generator that tests seed: their processes would all try the same ports.
_choice = random.SystemRandom().choice


def listen(port: int) -> socket.socket:
    """Open a listening socket, on a port that others of this process may be bound to as well."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.listen(128)
    listener.settimeout(0)
    return listener


async def accept(listener: socket.socket) -> socket.socket:
    """Accept the next connection."""
    while True:
        await anyio.wait_readable(listener)
        with suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = listener.accept()
            accepted.settimeout(0)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return accepted


async def connect(host: str, port: int) -> socket.socket:
    """Open a connection.

    :raises OSError: the connection was not accepted.
    """
    family, kind, protocol, _, address = (await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    made = socket.socket(family, kind, protocol)
    made.settimeout(0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    problem = made.connect_ex(address)
    try:
        if problem == errno.EINPROGRESS:
            await anyio.wait_writable(made)
            problem = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        made.close()
        raise
    if problem:
        made.close()
        raise OSError(problem, os.strerror(problem))
    return made


async def receive(connection: socket.socket) -> bytes:
    """Receive whatever comes next; empty when the other side is done.

    :raises OSError: the connection is broken.
    """
    while True:
        await anyio.wait_readable(connection)
        with suppress(BlockingIOError):
            return connection.recv(CHUNK_BYTES)


async def send(connection: socket.socket, data: bytes) -> None:
    """Send all of it.

    :raises OSError: the connection is broken.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(connection)


def close(connection: socket.socket, *, reset: bool) -> None:
    """Close it, as one does or with RST."""
    if reset:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()


async def ask(port: int, question: bytes, *, until: bytes = b"", within: float = 1.0) -> bytes:
    """Return what a server on this machine answers to the question, up to a text in it.

    Empty, or what came so far, if it does not answer within so many seconds or hangs up.
    """
    answer = b""
    with suppress(OSError), anyio.move_on_after(within):
        connection = await connect(HOST, port)
        with connection:
            await send(connection, question)
            while chunk := await receive(connection):
                answer += chunk
                if until in answer:
                    break
    return answer
