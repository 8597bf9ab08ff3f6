"""SupervisedConnection: one connection after another to the servers of an address, with subscriptions that stay.

A task of its own watches the connection: when it has ended, or the server does not answer a ping, every waiter is woken
and a new connection is made, to the next server that takes it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple, Self

from taskcore.connections.loops import require_asyncio
from taskcore.connections.nats.address import Host, NatsAddress
from taskcore.connections.nats.login import BadLogin
from taskcore.connections.nats.protocol import Handler
from taskcore.connections.nats.raw import CONNECT_TIMEOUT, RawConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["Subscription", "SupervisedConnection"]

log = logger("taskcore.connections.nats")

READY_TIMEOUT: Final = 2.0  #: seconds for which a call waits for a connection that is being made again
PING_EVERY: Final = 3.0  #: seconds between two pings …
PING_TIMEOUT: Final = 3.0  #: … and for which an answer is waited for
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  #: seconds between two rounds of attempts to connect


class Subscription(NamedTuple):
    """A subscription that outlives a connection."""

    subject: bytes
    number: int
    handler: Handler


class SupervisedConnection:
    """One supervised connection. Use it with ``async with``.

    :param name: what the server's monitoring shows.
    """

    def __init__(self, address: NatsAddress, *, name: str) -> None:
        self.address = address
        self.on_lost: list[Callable[[], None]] = []  #: called when the connection is gone, perhaps twice
        self._name = name
        self._connection: RawConnection | None = None
        self._opened = asyncio.Event()
        self._known: list[Host] = list(address.hosts)
        self._subscriptions: dict[int, Subscription] = {}
        self._numbers = count(1)
        self._inbox = f"_INBOX.{secrets.token_hex(11)}".encode()
        self._inbox_numbers = count(1)
        self._tasks = TaskSet("NATS connection")
        self._trouble = ""
        self._users = 0
        self._gone_since = 0.0

    async def __aenter__(self) -> Self:
        """Connect; an owner that has it open already lends it.

        :raises BrokerUnavailable: no server takes the connection, or JetStream is not there (TC201).
        :raises FeatureRefused: the program runs on trio (TC501).
        """
        require_asyncio("nats", "taskcore's own")
        self._users += 1
        if self._users > 1:
            return self
        self._opened = asyncio.Event()  # of this loop
        try:
            await self._connect()
        except BaseException:
            self._users = 0
            raise
        self._tasks.start(self._supervise(), name="taskcore-nats-connection")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        self._users -= 1
        if self._users:
            return
        try:
            await self._tasks.cancel()
        finally:
            await self._disconnect()

    async def _greet(self) -> None:
        """Ask what has to be known on each new connection.

        :raises BrokerUnavailable: the connection is of no use.
        """

    @property
    def _alive(self) -> RawConnection | None:
        connection = self._connection
        return connection if connection is not None and connection.alive else None

    @property
    def _info(self) -> Mapping[str, Any]:
        return self._connection.info if self._connection is not None else {}

    # ── what is known about the server ──

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._alive is not None

    @property
    def version(self) -> str:
        """The server's version, as it says it."""
        return str(self._info.get("version", "?"))

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """The first two numbers of the version; none if it says none."""
        return tuple(int(number) for number in self.version.split(".")[:2] if number.isdigit())

    @property
    def max_payload(self) -> int:
        """The most bytes that one message may have, headers included."""
        return int(self._info.get("max_payload", 1_048_576))

    def unavailable(self, why: str) -> BrokerUnavailable:
        """Return the error for it."""
        servers = ", ".join(host.text for host in self._known)
        facts = [f"servers: {servers}"] + [f"last trouble: {self._trouble}"] * bool(self._trouble)
        return BrokerUnavailable(f"NATS: {why}", facts=facts, fix="start the server, or read its log")

    # ── writing ──

    async def ready(self, within: float = READY_TIMEOUT) -> RawConnection:
        """Return the connection, as soon as there is one.

        :raises BrokerUnavailable: there is none within this time, in seconds.
        """
        if (connection := self._alive) is not None:
            return connection
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while (connection := self._alive) is None:
                    if self._connection is not None:
                        await asyncio.sleep(0.01)  # it has ended, and its supervisor has not noticed yet
                    await self._opened.wait()
                return connection
        error = self.unavailable(f"there is no connection ({self._trouble})")
        error.gone_for = time.monotonic() - self._gone_since
        raise error

    def send_now(self, frames: bytes) -> bool:
        """Write frames for which there are no answers; False if there is no connection."""
        connection = self._alive
        if connection is not None:
            connection.write(frames)
        return connection is not None

    async def round_trip(self, *, timeout: float) -> bool:
        """Go to the server and back: what it sent before has arrived then. False if it does not answer."""
        return self._connection is not None and await self._connection.ping(timeout)

    # ── subscriptions ──

    def subscribe(self, subject: bytes, handler: Handler) -> Subscription:
        """Receive a subject's messages, also after a reconnect. The handler is called in the loop and must be quick."""
        subscription = Subscription(subject, next(self._numbers), handler)
        self._subscriptions[subscription.number] = subscription
        if (connection := self._alive) is not None:
            connection.subscribe(*subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ask the server for no more; what is on its way still comes."""
        known = self._subscriptions.pop(subscription.number, None)
        if known is not None and (connection := self._alive) is not None:
            connection.unsubscribe(subscription.number)

    def discard(self, subscription: Subscription) -> None:
        """Unsubscribe, and ignore what is on its way."""
        self.unsubscribe(subscription)
        if self._connection is not None:
            self._connection.handlers.pop(subscription.number, None)

    def new_inbox(self) -> bytes:
        """Return a subject that no other client uses."""
        return b"%b%x" % (self._inbox, next(self._inbox_numbers))

    # ── staying connected ──

    async def _supervise(self) -> None:
        """Watch the connection; make a new one when it is gone."""
        while True:
            try:
                connection = self._connection
                if connection is not None:
                    why = await _end_of(connection)
                    self._gone_since = time.monotonic()
                    log.debug("connection to NATS lost: %s; reconnecting", why)
                    connection.abort()
                    self._lose(why)
                await self._reconnect()
            except Exception:
                log.exception("unexpected error in the NATS connection loop; reconnecting")
                await asyncio.sleep(LONGEST_PAUSE)

    async def _reconnect(self) -> None:
        """Try until there is a connection, with growing pauses."""
        pause = FIRST_PAUSE
        while self._connection is None:
            try:
                await self._connect()
            except BrokerUnavailable as error:
                log.debug("cannot connect to NATS: %s; trying again", self._trouble or error.what)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        log.debug("connected to NATS again after %.1f s", time.monotonic() - self._gone_since)

    async def _connect(self) -> None:
        """Connect to the first known server that takes us.

        :raises BrokerUnavailable: none does, or it is of no use.
        """
        try:
            await self._try_all()
            await self._greet()
        except BaseException:
            await self._disconnect()
            raise

    async def _try_all(self) -> None:
        """Try all known servers once."""
        for host in list(self._known):
            connection = RawConnection()
            try:
                await connection.open(self.address, host, name=self._name)
            except (OSError, ValueError, BadLogin) as error:
                why = f"{type(error).__name__}: {error}"
                if isinstance(error, TimeoutError) and not str(error):
                    why = f"connected, but no answer for {CONNECT_TIMEOUT:g} s"
                self._trouble = f"{host.text}: {why.removesuffix(': ')}"
                continue
            self._connection = connection
            connection.ended.add_done_callback(self._tell_lost)  # no supervisor sees its end while it is greeted
            self._known = _known_after(self.address, self._known, host, self._info.get("connect_urls") or [])
            for subscription in self._subscriptions.values():
                connection.subscribe(*subscription)
            self._opened.set()
            return
        raise self.unavailable("no server takes our connection")

    async def _disconnect(self) -> None:
        connection = self._connection
        self._lose(self._trouble or "closed")
        if connection is not None:
            await connection.close()

    def _lose(self, why: str) -> None:
        self._trouble = why
        self._connection = None
        self._opened.clear()  # the same event: callers that wait since an earlier attempt hear of the next connection
        self._tell_lost()

    def _tell_lost(self, _: object = None) -> None:
        for call in self.on_lost:
            call()


async def _end_of(connection: RawConnection) -> str:
    """Wait until the connection is of no use any more; return why."""
    while True:
        ended, _ = await asyncio.wait([connection.ended], timeout=PING_EVERY)
        if ended:
            return connection.why
        if await connection.ping(PING_TIMEOUT):
            continue
        # If it was our own loop that stood still, what has arrived meanwhile is read now.
        if connection.alive and not await connection.ping(0.1):
            return f"the server did not answer a ping for {PING_TIMEOUT:g} s"


def _known_after(address: NatsAddress, known: list[Host], used: Host, discovered: Sequence[str]) -> list[Host]:
    """Return the servers to try next time: the others first, those of the URL always, the rest as the cluster says."""
    found = {host.text: host for host in address.hosts}
    for url in discovered:
        name, _, port = url.rpartition(":")
        if port.isdigit():
            host = Host(name.strip("[]"), int(port), used.user, used.password)
            found.setdefault(host.text, host)
    order = {host.text: index for index, host in enumerate(known)}
    return sorted(found.values(), key=lambda host: (host.text == used.text, order.get(host.text, len(order))))
