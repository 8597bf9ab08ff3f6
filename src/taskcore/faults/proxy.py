"""ChaosProxy: a TCP connection that misbehaves, between a client and a real server.

    async with ChaosProxy("127.0.0.1", server.port) as proxy:
        app = App(f"redis://127.0.0.1:{proxy.port}")
        proxy.cut()                         every connection is reset now; new ones are welcome
        proxy.cut_before(3)                 the third reply from now on is not passed on, its connection is reset
        proxy.cut_after(1)                  the next reply is passed on, then its connection is reset
        proxy.black_hole()                  half-open: nothing comes through, without an RST
        proxy.forget()                      the same for open connections, for good; new ones are welcome
        proxy.delay(0.2, jitter=0.05)       each chunk waits
        proxy.throttle(32_000)              bytes a second
        proxy.byte_by_byte()                every byte in a packet of its own
        await proxy.refuse()                new connections are refused; open ones stay
        await proxy.heal()

"up" is towards the server, "down" towards the client; what has a direction takes ``only="up"`` or ``only="down"``. A
reply is a chunk as it was read from the server, which for small ones is one reply.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal, Self, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel

from taskcore.faults.sockets import HOST, accept, close, connect, listen, receive, send

__all__ = ["ChaosProxy", "Direction", "DirectionName"]

DirectionName: TypeAlias = Literal["up", "down"]

CONNECT_WITHIN = 5.0  #: seconds that the proxy gives the server to accept
PIECES_PER_SECOND = 20  #: when throttled
UNLIMITED_BYTES = 1 << 30  #: bytes of a piece without a limit


class Direction:
    """One direction of all connections: how it treats what passes, and how much has passed."""

    def __init__(self) -> None:
        self.chunks = 0  #: passed on so far
        self.bytes = 0
        self.blocked = False
        self._opened = anyio.Event()
        self.heal()

    def heal(self) -> None:
        """Pass everything on at once."""
        self.delay = self.jitter = 0.0
        self.rate: float | None = None
        self.single = False
        self.cut_before: int | None = None
        self.cut_after: int | None = None
        self.open()

    def block(self) -> None:
        """Pass nothing on, until ``open``."""
        if not self.blocked:
            self._opened = anyio.Event()
            self.blocked = True

    def open(self) -> None:
        """Pass on again, what has gathered first."""
        self.blocked = False
        self._opened.set()

    async def opened(self) -> None:
        """Wait until this direction passes things on."""
        while self.blocked:
            await self._opened.wait()

    async def carry(self, data: bytes, to: socket.socket) -> bool:
        """Pass a chunk on as this direction does; False: the connection is to be reset now."""
        if self._counts_down("cut_before"):
            return False
        if self.delay or self.jitter:
            await anyio.sleep(max(self.delay + random.uniform(-self.jitter, self.jitter), 0.0))
        for piece in self._pieces(data):
            await self.opened()
            await send(to, piece)
            if self.rate is not None:
                await anyio.sleep(len(piece) / self.rate)
            elif self.single:
                await anyio.lowlevel.checkpoint()
        self.chunks += 1
        self.bytes += len(data)
        return not self._counts_down("cut_after")

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        size = (
            1 if self.single else UNLIMITED_BYTES if self.rate is None else max(int(self.rate / PIECES_PER_SECOND), 1)
        )
        return (data[start : start + size] for start in range(0, len(data), size))

    def _counts_down(self, name: Literal["cut_before", "cut_after"]) -> bool:
        left: int | None = getattr(self, name)
        if left is None:
            return False
        setattr(self, name, left - 1 if left > 1 else None)
        return left == 1


class ChaosProxy:
    """Listens on a port of its own on the loopback and connects to the target for every connection that it gets."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = target_host, target_port
        self.port = 0
        self.accepted = 0  #: connections so far
        self.up, self.down = Direction(), Direction()
        self._open: set[_Connection] = set()
        self._listening: anyio.CancelScope | None = None
        self._silent = anyio.Event()  # set while it does not listen
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to listen on ``port``."""
        async with AsyncExitStack() as exits:
            # Bound but never listening: keeps the port ours while connections are refused.
            reserve = exits.enter_context(socket.socket())
            reserve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserve.bind((HOST, 0))
            self.port = reserve.getsockname()[1]
            self._group = await exits.enter_async_context(anyio.create_task_group())
            await self._group.start(self._listen)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Reset what is connected and stop listening; no task is left."""
        self._group.cancel_scope.cancel()
        await self._exits.__aexit__(kind, error, traceback)

    @property
    def connected(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    # ── faults ──

    async def refuse(self) -> None:
        """Refuse new connections; what is connected stays."""
        if self._listening is not None:
            self._listening.cancel()
            await self._silent.wait()

    def cut(self) -> None:
        """Reset every connection now."""
        for connection in tuple(self._open):
            connection.reset()

    def cut_before(self, nth: int, *, only: DirectionName = "down") -> None:
        """Reset the connection of the n-th chunk from now on, before it is passed on."""
        self._direction(only).cut_before = nth

    def cut_after(self, nth: int, *, only: DirectionName = "down") -> None:
        """Reset the connection of the n-th chunk from now on, after it was passed on."""
        self._direction(only).cut_after = nth

    def black_hole(self, *, only: DirectionName | None = None) -> None:
        """Pass nothing on, silently; after ``heal`` what has gathered comes through, as after an outage."""
        for direction in self._directions(only):
            direction.block()

    def forget(self) -> None:
        """Pass nothing on for connections that are open now, ever again, and without an RST; new ones are welcome.

        That is what a NAT or a firewall does when it forgets a connection. ``cut`` still resets them.
        """
        for connection in self._open:
            connection.forget()

    def delay(self, seconds: float, *, jitter: float = 0.0, only: DirectionName | None = None) -> None:
        """Let each chunk wait, more or less by up to ``jitter``. Chunks keep their order, so many of them add up."""
        for direction in self._directions(only):
            direction.delay, direction.jitter = seconds, jitter

    def throttle(self, rate: float, *, only: DirectionName | None = None) -> None:
        """Pass so many bytes a second on."""
        for direction in self._directions(only):
            direction.rate = rate

    def byte_by_byte(self, *, only: DirectionName | None = None) -> None:
        """Pass every byte on by itself."""
        for direction in self._directions(only):
            direction.single = True

    async def heal(self) -> None:
        """End all faults; connections that were reset stay so."""
        self.up.heal()
        self.down.heal()
        if self._listening is None:
            await self._group.start(self._listen)

    def _direction(self, direction: DirectionName) -> Direction:
        return self.up if direction == "up" else self.down

    def _directions(self, only: DirectionName | None) -> tuple[Direction, ...]:
        return (self.up, self.down) if only is None else (self._direction(only),)

    # ── connections ──

    async def _listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self._silent = anyio.Event()
        listener = listen(self.port)
        try:
            with anyio.CancelScope() as self._listening:
                task_status.started()
                while True:
                    self._group.start_soon(self._serve, await accept(listener))
        finally:
            listener.close()
            self._listening = None
            self._silent.set()

    async def _serve(self, client: socket.socket) -> None:
        self.accepted += 1
        connection = _Connection(client, self._target, self.up, self.down)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)


class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, target: tuple[str, int], up: Direction, down: Direction) -> None:
        self._sides = [client]
        self._target = target
        self._up, self._down = up, down
        self._scope = anyio.CancelScope()
        self._done = False
        self._forgotten = False

    def forget(self) -> None:
        """Pass nothing on any more, not even that a side has closed."""
        self._forgotten = True

    def reset(self) -> None:
        """Close both sides with RST."""
        self._scope.cancel()

    async def run(self) -> None:
        """Pass on both ways until both sides are done, or one has gone."""
        try:
            with self._scope:
                await self._up.opened()  # a network that passes nothing on makes no connections either
                await self._join()
            self._done = not self._scope.cancelled_caught
        except (OSError, TimeoutError):
            pass  # the server cannot be reached: the client learns it by the reset
        finally:
            for side in self._sides:
                close(side, reset=not self._done)

    async def _join(self) -> None:
        with anyio.fail_after(CONNECT_WITHIN):
            server = await connect(*self._target)
        self._sides.append(server)
        [client, server] = self._sides
        async with anyio.create_task_group() as group:
            group.start_soon(self._pass_on, client, server, self._up)
            group.start_soon(self._pass_on, server, client, self._down)

    async def _pass_on(self, source: socket.socket, to: socket.socket, direction: Direction) -> None:
        try:
            while data := await receive(source):
                if self._forgotten:
                    break
                if not await direction.carry(data, to):
                    self.reset()
                    return
            await direction.opened()  # a black hole hides that the other side is done
            if self._forgotten:
                await anyio.sleep_forever()
            to.shutdown(socket.SHUT_WR)
        except OSError:
            if self._forgotten:  # the side that is left learns nothing
                await anyio.sleep_forever()
            self.reset()
