"""A connection that listens to notifications (LISTEN and NOTIFY), and listens again after each loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import psycopg

from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.session import Connection, connect, postgres_unavailable
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["PostgresListener"]

log = logger("taskcore.connections.postgres")

TEST_AFTER_SILENCE = 2.0  #: seconds without a notification before the connection is tested: it may be half open
TEST_TIMEOUT = 3.0  #: seconds for the answer
FAIL_AFTER = 30.0  #: seconds without a server before ``failed`` is called
POLL_SECONDS: Final = 0.25  #: seconds between two looks where no connection can listen
FIRST_PAUSE: Final = 0.1  #: seconds before the first attempt to listen again …
LONGEST_PAUSE: Final = 2.0  #: … and before later ones, at most


class PostgresListener:
    """Listens to one channel, from the first call of ``begin`` until it is not needed any more.

    Where the address says that no session can listen, it acts as if it had missed something, four times a second.

    :param is_needed: whether to go on; asked after each notification and each quiet time.
    :param begun: is awaited whenever listening has begun: earlier notifications may have been missed.
    :param received: is awaited with the payload of each notification.
    :param failed: is called when the server has been away for long.
    """

    def __init__(
        self,
        address: PostgresAddress,
        channel: str,
        *,
        is_needed: Callable[[], bool],
        begun: Callable[[], Awaitable[None]],
        received: Callable[[str], Awaitable[None]],
        failed: Callable[[BrokerUnavailable], None],
    ) -> None:
        self._address = address
        self._listen = self._listen_in_session if address.listens else self._poll
        self._channel = channel
        self._is_needed = is_needed
        self._begun = begun
        self._received = received
        self._failed = failed
        self._tasks = TaskSet("PostgreSQL listener")
        self._listening = asyncio.Event()

    async def begin(self) -> None:
        """Wait until notifications come; connect if no connection listens.

        :raises BrokerUnavailable: the server cannot be listened to now.
        """
        if not self._tasks:
            self._listening = asyncio.Event()
            self._tasks.start(self._run())
        try:
            async with asyncio.timeout(self._address.timeout):
                await self._listening.wait()
        except TimeoutError as error:
            raise postgres_unavailable(error, self._address) from None

    async def close(self) -> None:
        """Stop listening."""
        await self._tasks.cancel()

    async def _run(self) -> None:
        """Listen, and listen again after each lost connection, until it is not needed any more."""
        pause, lost = FIRST_PAUSE, None
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, BrokerUnavailable) as error:
                was_listening, self._listening = self._listening.is_set(), asyncio.Event()
                if was_listening:
                    shown = self._address.shown
                    log.warning("lost the connection that listens to PostgreSQL at %s; reconnecting: %s", shown, error)
                    pause, lost = FIRST_PAUSE, None
                lost = loop.time() if lost is None else lost
                if loop.time() - lost >= FAIL_AFTER:
                    known = (
                        error if isinstance(error, BrokerUnavailable) else postgres_unavailable(error, self._address)
                    )
                    self._failed(known)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return

    async def _poll(self) -> None:
        """Act as if a notification may have been missed, now and then: no session of our own can listen."""
        self._listening.set()
        while self._is_needed():
            await self._begun()
            await asyncio.sleep(POLL_SECONDS)

    async def _listen_in_session(self) -> None:
        async with asyncio.timeout(self._address.timeout):
            connection = await connect(self._address)
        try:
            async with asyncio.timeout(self._address.timeout):
                await connection.execute(f"LISTEN {self._channel}".encode())
            self._listening.set()
            await self._begun()
            while self._is_needed():
                await self._receive(connection)
        finally:
            connection.pgconn.finish()

    async def _receive(self, connection: Connection) -> None:
        """Take the next notification; if none comes, test the connection."""
        came = False
        async for notification in connection.notifies(timeout=TEST_AFTER_SILENCE, stop_after=1):
            came = True
            await self._received(notification.payload)
        if not came:
            with anyio.fail_after(min(TEST_TIMEOUT, self._address.timeout)):  # it cancels repeatedly, as in a session
                await connection.execute("SELECT 1")
