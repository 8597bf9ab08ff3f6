"""Servers: real brokers that a test starts for itself, on a free port of this machine, and mistreats.

    async with RedisServer() as server:
        app = App(server.url)
        server.kill()                       as a power cut would
        await server.restart()              with the data that its disk has; restart(wipe=True): with none
        server.pause(); server.resume()     alive, but silent (SIGSTOP, SIGCONT)

Each has a temporary folder of its own. Nothing is left of it, not even if the test's process is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable
from taskcore.faults.binaries import ServerMissing, find_binary, version_of
from taskcore.faults.child import Child
from taskcore.faults.sockets import HOST, ask, free_port

__all__ = ["NatsServer", "RedisServer", "Server", "ServerMissing", "ValkeyServer"]

PORTS_TRIED = 3  #: a port that was free may be taken by another program before the server has it


class Server(ABC):
    """One private server. Use it with ``async with``; it is ready inside.

    :param version: how its version has to begin, such as ``"7.0"``; empty: whichever is found first.
    :param config: settings of the server by their own names; they win over ours.
    :raises ServerMissing: its program is not on this machine.
    """

    program: ClassVar[str]
    ready_within: float = 10.0  #: seconds
    stops_within: ClassVar[float] = 10.0

    def __init__(self, *, version: str = "", config: Mapping[str, str | int] | None = None) -> None:
        self.binary = self.find(version)
        self.config = dict(config or {})
        self.port = 0
        self._folder = Path()
        self._child: Child | None = None

    @classmethod
    def find(cls, version: str = "") -> Path:
        """Find the server's program.

        :raises ServerMissing: it is not on this machine, or not in this version; the text says how to install it.
        """
        return find_binary(cls.program, version=version)

    @property
    def version(self) -> str:
        """The program's version."""
        return version_of(self.binary)

    @property
    @abstractmethod
    def url(self) -> str:
        """What ``App`` takes."""

    @property
    def pid(self) -> int:
        """The id of its process and of its group, to which all that it starts belongs.

        :raises LookupError: it was never started.
        """
        if self._child is None:
            raise LookupError(f"{self.program} was never started")
        return self._child.pid

    @property
    def data(self) -> Path:
        """Where its data are."""
        return self._folder / "data"

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers.

        :raises BrokerUnavailable: it does not; the text has the end of its log.
        """
        self._folder = Path(tempfile.mkdtemp(prefix=f"taskcore-{self.program}-"))
        self.data.mkdir()
        try:
            for attempt in range(1, PORTS_TRIED + 1):
                self.port = free_port()
                try:
                    await self.start()
                except BrokerUnavailable:
                    if attempt == PORTS_TRIED or "in use" not in self.log().lower():
                        raise
                else:
                    break
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        error = exc[1]
        if isinstance(error, BaseException):
            error.add_note(f"the end of the log of {self.program}:\n{self.log()}")
        self._remove()

    # ── what a test does to it ──

    @property
    def running(self) -> bool:
        """Whether its process is there; a paused one is."""
        return self._child is not None and self._child.running

    async def start(self) -> None:
        """Start it, with the data that it has, and wait until it answers; nothing happens if it runs.

        :raises BrokerUnavailable: it does not answer in time, or ended at once; the text has the end of its log.
        """
        if self.running:
            return
        self._prepare()
        child = self._child = Child(
            self._command(),
            output=self._folder / "log",
            environment=self._environment(),
            folder=self._folder,
            temporary=self._folder,
        )
        child.start()
        with anyio.move_on_after(self.ready_within):
            while child.running:
                if await self._answers():
                    return
                await anyio.sleep(0.02)
        why = f"does not answer after {self.ready_within:g} s" if child.running else "ended at once"
        log = self.log()
        self.kill()
        raise BrokerUnavailable(f"{self.program} on port {self.port} {why}", facts=["the end of its log:", log])

    async def stop(self) -> None:
        """Stop it as an operator would (SIGTERM), and wait for its end."""
        if self._child is None:
            return
        self.resume()
        self._child.send(signal.SIGTERM)
        with suppress(TimeoutError):
            await self._child.wait(self.stops_within)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL); its data are what the disk has."""
        if self._child is not None:
            self._child.kill()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered (SIGSTOP)."""
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._child is not None:
            self._child.resume()

    async def restart(self, *, wipe: bool = False) -> None:
        """Stop it (unless it was killed) and start it again on the same port.

        :param wipe: without its data, as after the loss of its disk.
        """
        await self.stop()
        if wipe:
            shutil.rmtree(self.data)
            self.data.mkdir()
        await self.start()

    def log(self, lines: int = 30) -> str:
        """Return the last lines of its log."""
        return self._child.tail(lines) if self._child is not None else "(never started)"

    # ── what differs from server to server ──

    def _prepare(self) -> None:  # noqa: B027 - not every server has something to prepare
        """Write its configuration."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    @abstractmethod
    async def _answers(self) -> bool:
        """Tell whether it answers a ping in its own protocol."""

    def _remove(self) -> None:
        if self._child is not None:
            self._child.forget()
        shutil.rmtree(self._folder, ignore_errors=True)


class RedisServer(Server):
    """Redis, with an append-only file: a kill loses nothing that was answered, while the disk keeps up."""

    program = "redis-server"

    @property
    def url(self) -> str:
        """``redis://…``."""
        return f"redis://{HOST}:{self.port}/0"

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "port": self.port, "bind": HOST, "dir": self.data, "daemonize": "no",
            "save": "", "appendonly": "yes", "maxmemory-policy": "noeviction",
        } | self.config  # fmt: skip
        return [self.binary, *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]

    async def _answers(self) -> bool:
        reply = await ask(self.port, b"PING\r\n")
        return reply.startswith((b"+PONG", b"-NOAUTH"))  # not -LOADING: it still reads its data


class ValkeyServer(RedisServer):
    """Valkey; speaks as Redis does."""

    program = "valkey-server"


class NatsServer(Server):
    """NATS with JetStream."""

    program = "nats-server"

    @property
    def url(self) -> str:
        """``nats://…``."""
        return f"nats://{HOST}:{self.port}"

    def _prepare(self) -> None:
        settings = {"host": HOST, "port": self.port, "jetstream": {"store_dir": str(self.data)}} | self.config
        (self._folder / "nats.conf").write_bytes(msgspec.json.encode(settings))  # its own format contains JSON

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, "-c", self._folder / "nats.conf"]

    async def _answers(self) -> bool:
        reply = await ask(self.port, b'CONNECT {"verbose":false}\r\nPING\r\n', until=b"PONG")
        return any(sign in reply for sign in (b"PONG", b"'Authorization Violation'", b'"tls_required":true'))
