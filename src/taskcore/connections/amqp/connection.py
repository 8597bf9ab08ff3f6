"""Connections to RabbitMQ: made when they are needed, and again when they were lost.

aio-pika's ``connect_robust`` is not used. It reconnects behind its caller, restores consumers and keeps handing out the
deliveries of a lost channel; here a lost channel ends its leases, and only a new channel brings new ones.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aio_pika.exceptions import AMQPError, InvalidFrameError, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused
from pamqp.exceptions import PAMQPException

from taskcore.connections.amqp.address import Address
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.detached import run_detached

__all__ = ["Connector", "ReconnectingConnection"]

T = TypeVar("T")

#: What the client library raises when a connection fails; a time limit is an OSError.
CLIENT_ERRORS = (AMQPError, PAMQPException, OSError, EOFError)


class _NoLosses(logging.Filter):
    """Drops the library's lines about lost connections, a traceback each, and about each attempt to make a new one.

    The caller says once that the broker is lost, and why.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep everything but the end of a stream, and failed attempts; a frame that cannot be read is no such end."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        is_lost = isinstance(error, AMQPError) and isinstance(error.__cause__, EOFError | OSError)
        return not is_lost and not record.getMessage().startswith("error when creating transport")


logging.getLogger("aiormq.connection").addFilter(_NoLosses())

HANDSHAKE_TIMEOUT = 6.0  #: seconds for one node, before the next one is tried


class Connector:
    """Connects to one address; remembers which node answered last."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._preferred = address.nodes[0]

    async def connect(self, purpose: str) -> FilteredConnection:
        """Connect to the first node that answers.

        :param purpose: names the connection in the server's own tools.
        :raises BrokerUnavailable: no node answers, or the server refuses this user.
        """
        address, facts = self.address, list[str]()
        context = await asyncio.to_thread(self._tls_context) if address.scheme == "amqps" else None
        fix = "is it running, and are host, port, user, password and virtual host right?"
        for node in sorted(address.nodes, key=lambda node: node != self._preferred):
            opening = FilteredConnection.open(address, node, context, name=f"taskcore {purpose}")
            try:
                connection = await run_detached(opening, timeout=min(HANDSHAKE_TIMEOUT, address.timeout))
            except CLIENT_ERRORS as error:
                facts.append(f"{node[0]}:{node[1]}: {_describe(error)}")
                if _is_about_tls(error):
                    fix = "cafile must hold the signer of its certificate, which must name this host; is it a TLS port?"
            else:
                self._preferred = node
                return connection
        raise BrokerUnavailable(f"RabbitMQ at {address.url} cannot be reached", facts=facts, fix=fix)

    def _tls_context(self) -> ssl.SSLContext:
        address = self.address
        try:
            context = ssl.create_default_context(cafile=address.cafile)
            if address.certfile is not None:
                context.load_cert_chain(address.certfile, address.keyfile)
        except OSError as error:  # the errors of ssl are OSErrors
            files = {"cafile": address.cafile, "certfile": address.certfile, "keyfile": address.keyfile}
            raise BrokerUnavailable(
                f"cannot connect to RabbitMQ at {address.url}: its certificates cannot be read",
                facts=[_describe(error), *(f"{name}: {path}" for name, path in files.items() if path)],
                fix="give the paths of PEM files that this process may read, and a key that fits its certificate",
            ) from error
        return context

    async def run(self, action: str, work: Coroutine[Any, Any, T]) -> T:
        """Run the work to its end or its time limit, also when the caller is cancelled.

        :param action: for the text of an error: ``publishing``.
        :raises BrokerUnavailable: no answer in time, or a refusal; the error's cause is the library's error.
        """
        with self.errors(action):
            return await run_detached(work, timeout=self.address.timeout)

    @contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Turn the client library's errors into BrokerUnavailable.

        :param action: what fails, for the text: ``publishing``.
        """
        try:
            yield
        except BrokerUnavailable:  # it is a ConnectionError, too
            raise
        except Exception as error:
            if not _is_of_the_library(error):
                raise
            fix = "see the broker's log; taskcore doctor shows how the broker is set up"
            if isinstance(error, ChannelAccessRefused):
                fix = "give this user the permission to configure, write or read it: rabbitmqctl set_permissions"
            raise BrokerUnavailable(
                f"{action} failed: RabbitMQ at {self.address.url}", facts=[_describe(error)], fix=fix
            ) from error


def _is_of_the_library(error: Exception) -> bool:
    """Tell whether the client library raised it; a call whose channel is lost without a reason ends in a bare one."""
    return isinstance(error, (*CLIENT_ERRORS, RuntimeError)) or type(error) is Exception


class ReconnectingConnection:
    """One connection of a backend, made on first use and again after a loss.

    :param purpose: its name in the server's own tools.
    """

    def __init__(self, connector: Connector, purpose: str) -> None:
        self.connector = connector
        self._purpose = purpose
        self._connection: FilteredConnection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @property
    def current(self) -> FilteredConnection | None:
        """The live connection; None if there is none."""
        connection = self._connection
        return connection if connection is not None and not connection.is_closed else None

    async def open(self) -> FilteredConnection:
        """Return the live connection; connect if there is none.

        :raises BrokerUnavailable: connecting failed.
        """
        async with self._connecting:
            if self.current is not None:
                return self.current
            if self._closed:
                raise RuntimeError("this backend is closed: use it inside its `async with` block")
            if self._connection is not None:
                await self._connection.close()
            self._connection = await self.connector.connect(self._purpose)
            return self._connection

    async def close(self) -> None:
        """Close it for good."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close()


def _is_about_tls(error: BaseException) -> bool:
    """Return whether the TLS handshake failed, also if the library wrapped that error."""
    return isinstance(error, ssl.SSLError) or (error.__cause__ is not None and _is_about_tls(error.__cause__))


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "connected, but no answer in time"
    if isinstance(error, ProbableAuthenticationError):
        return f"the server refused the login: {error}"
    if isinstance(error, InvalidFrameError | PAMQPException):  # the server closed where it would have accepted
        return "the server refused the virtual host: it does not exist, or this user has no permission in it"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
