"""Line: one connection after another to the servers of an address, and who hears what comes.

A task of its own watches the connection: when it ended, or went deaf (we hear ourselves through the server every few
seconds), everybody who waits is told, and a new connection is made, to the next server that takes us.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Self

from taskcore.connections.loops import require_asyncio
from taskcore.connections.nats.address import Address, Host
from taskcore.connections.nats.wire import Handler, Parcel, Wire, connect, frame
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["Ear", "Line"]

log = logger("taskcore.nats")

WAITING = 2.0  #: seconds for which a call waits for a connection that is being made anew
HEARTBEAT = 4.0  #: seconds between two times that we listen to ourselves …
DEAF = 4.0  #: … and how long that may take
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  #: seconds between two rounds of attempts to connect


class Ear:
    """A subscription that lives as long as its link, or until ``close``."""

    __slots__ = ("handler", "number", "subject")

    def __init__(self, subject: bytes, number: int, handler: Handler) -> None:
        self.subject = subject
        self.number = number
        self.handler = handler


class Line(ABC):
    """One supervised connection. Use it with ``async with``.

    :param name: what the server's monitoring shows.
    """

    def __init__(self, address: Address, *, name: str) -> None:
        self.address = address
        self.on_lost: list[Callable[[], None]] = []  #: called when the connection is gone
        self._name = name
        self._wire: Wire | None = None
        self._opened = asyncio.Event()
        self._known: list[Host] = list(address.hosts)
        self._ears: dict[int, Ear] = {}
        self._numbers = count(1)
        self._inbox = f"_INBOX.{secrets.token_hex(11)}".encode()
        self._inbox_numbers = count(1)
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble = self._told = ""
        self._users = 0
        self._gone_since = 0.0
        self.listen(self._inbox + b".heartbeat", lambda *_: self._heard.set())

    async def __aenter__(self) -> Self:
        """Connect.

        :raises BrokerUnavailable: no server takes us, or JetStream is not there (TC201).
        :raises FeatureRefused: the program runs on trio (TC501).
        """
        require_asyncio("nats", "nats-py")
        self._users += 1
        if self._users > 1:  # somebody who has it open lends it
            return self
        try:
            await self._connect()
            await self._greet()
        except BaseException:
            self._users = 0
            await self._disconnect()
            raise
        self._task = asyncio.create_task(self._live(), name="taskcore-nats-link")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._users -= 1
        if self._users:
            return
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.wait([self._task]))
        await self._disconnect()

    @abstractmethod
    async def _greet(self) -> None:
        """What has to be said and asked on each new connection.

        :raises BrokerUnavailable: it is of no use.
        """

    # ── what is known about the server ──

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._wire is not None and self._wire.alive

    @property
    def version(self) -> str:
        """The server's version, as it says it."""
        return str(self._wire.info.get("version", "?")) if self._wire is not None else "?"

    @property
    def max_payload(self) -> int:
        """The most bytes that one parcel may have, headers included."""
        return self._wire.max_payload if self._wire is not None else 1_048_576

    def unavailable(self, why: str) -> BrokerUnavailable:
        """The error for it."""
        servers = ", ".join(host.text for host in self._known)
        facts = [f"servers: {servers}"] + [f"last trouble: {self._trouble}"] * bool(self._trouble)
        return BrokerUnavailable(f"NATS: {why}", facts=facts, fix="start it, or see what its log says")

    # ── writing ──

    async def ready(self) -> Wire:
        """The connection, as soon as there is one.

        :raises BrokerUnavailable: there is none for some seconds.
        """
        wire = self._wire
        if wire is not None and wire.alive:
            return wire
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAITING):
                while self._wire is None or not self._wire.alive:
                    if self._wire is not None:
                        await asyncio.sleep(0.01)  # it has ended, and its watcher has not noticed yet
                    await self._opened.wait()
                return self._wire
        raise self.unavailable("there is no connection")

    async def send(self, frames: bytes) -> None:
        """Write frames for which there are no answers.

        :raises BrokerUnavailable: nothing was sent.
        """
        (await self.ready()).write(frames)

    def send_now(self, frames: bytes) -> bool:
        """The same at once; False if there is no connection."""
        wire = self._wire
        if wire is None or not wire.alive:
            return False
        wire.write(frames)
        return True

    # ── hearing ──

    def listen(self, subject: bytes, handler: Handler) -> Ear:
        """Hear a subject from now on, also after a reconnect. The handler must be quick, and is called in the loop."""
        ear = Ear(subject, next(self._numbers), handler)
        self._ears[ear.number] = ear
        if self._wire is not None and self._wire.alive:
            self._wire.subscribe_raw(subject, ear.number, handler)
        return ear

    def mute(self, ear: Ear) -> None:
        """Tell the server that we need no more; what is on its way still comes."""
        if self._ears.pop(ear.number, None) is not None and self._wire is not None and self._wire.alive:
            self._wire.unsubscribe_raw(ear.number)

    def forget(self, ear: Ear) -> None:
        """And now nothing comes any more."""
        self.mute(ear)
        if self._wire is not None:
            self._wire.handlers.pop(ear.number, None)

    def new_inbox(self) -> bytes:
        """A subject that nobody else uses."""
        return b"%b%x" % (self._inbox, next(self._inbox_numbers))

    # ── staying connected ──

    async def _live(self) -> None:
        """Watch the connection; make a new one when it is gone."""
        while True:
            try:
                wire = self._wire
                if wire is not None:
                    why = await self._watch(wire)
                    self._gone_since = time.monotonic()
                    log.warning("connection to NATS lost: %s; connecting again", why)
                    self._lose(why)
                    await wire.abandon()
                await self._reconnect()
            except Exception:
                log.exception("the link to NATS stumbled; it goes on")
                await asyncio.sleep(LONGEST_PAUSE)

    async def _reconnect(self) -> None:
        """Try until there is a connection, with growing pauses."""
        pause = FIRST_PAUSE
        while self._wire is None:
            try:
                await self._connect()
                await self._greet()
            except BrokerUnavailable as error:
                await self._disconnect()
                self._tell_trouble(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        self._told = ""
        log.warning("connected to NATS again after %.1f s", time.monotonic() - self._gone_since)

    def _tell_trouble(self, error: BrokerUnavailable) -> None:
        """Each reason once: people have to hear that credentials were revoked, and not a thousand times."""
        if self._told != self._trouble:
            self._told = self._trouble
            log.error("cannot connect to NATS: %s; trying on", self._trouble or error.what)

    async def _watch(self, wire: Wire) -> str:
        """Ends when this connection does; says why."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await wire.ended.wait()
                return str(wire.why or wire.last_error or "the server closed it")
            self._heard.clear()
            wire.write(frame(Parcel(self._inbox + b".heartbeat", b"")))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEAF):
                    await self._heard.wait()
            if not self._heard.is_set():
                await asyncio.sleep(0.1)  # if it was our own loop that stood still, what arrived is read now
            if not self._heard.is_set():
                return f"nothing came back for {DEAF:g} s"

    async def _connect(self) -> None:
        """One round over all servers that are known."""
        for host in list(self._known):
            try:
                wire = await connect(self.address, host, name=self._name)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the library raises: there is no connection
                self._trouble = f"{host.text}: {_say(error)}"
                continue
            self._wire = wire
            self._known = _known_after(self.address, self._known, host, wire.info.get("connect_urls") or [])
            for ear in self._ears.values():
                wire.subscribe_raw(ear.subject, ear.number, ear.handler)
            self._opened.set()
            return
        raise self.unavailable("no server takes our connection")

    async def _disconnect(self) -> None:
        wire = self._wire
        self._lose(self._trouble or "closed")
        if wire is not None:
            await wire.abandon()

    def _lose(self, why: str) -> None:
        self._trouble = why
        self._wire = None
        self._opened = asyncio.Event()
        for tell in self.on_lost:
            tell()


def _known_after(address: Address, known: list[Host], used: Host, discovered: Sequence[str]) -> list[Host]:
    """The servers to try next time: the others first, those of the URL always, the rest as the cluster says."""
    found = {host.text: host for host in address.hosts}
    for url in discovered:
        name, _, port = url.rpartition(":")
        if port.isdigit():
            host = Host(name.strip("[]"), int(port), used.user, used.password)
            found.setdefault(host.text, host)
    order = {host.text: index for index, host in enumerate(known)}
    hosts = sorted(found.values(), key=lambda host: order.get(host.text, len(order)))
    return [host for host in hosts if host.text != used.text] + [host for host in hosts if host.text == used.text]


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
