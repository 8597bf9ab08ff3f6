"""What a backend, its sources and a store may have beside their verbs, to be kept from outside of the event loop.

An adapter has these verbs or has them not; it imports nothing of this room.

    Backend  LendsExtenders   extender: extends leases by their tickets, in another thread or another process
    Source   IssuesTickets    ticket: a lease as bytes · extended · stood_still
    Backend  HasLifelines     lifelines: sockets whose silence would end all leases
    Backend, Store  MadeOfURL  url: of which its class makes another one, for another loop or another process
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from socket import socket
from typing import Protocol, runtime_checkable

from taskcore.backend import Delivery

__all__ = ["Extender", "HasLifelines", "IssuesTickets", "LendsExtenders", "Lifeline", "MadeOfURL"]


class Extender(Protocol):
    """Extends leases by their tickets, over a connection of its own: in another thread, or in another process."""

    async def extend(self, tickets: Sequence[bytes]) -> Sequence[bytes]:
        """Start the leases anew, at full length; return the tickets of those that were lost before.

        :raises BrokerUnavailable: leases are as they were, or longer.
        """
        ...


@runtime_checkable
class LendsExtenders(Protocol):
    """A backend whose leases can be extended from outside of the event loop that holds them."""

    @property
    def silence(self) -> float | None:
        """Seconds for which a source's loop may stand still before its connection is lost, and all leases with it.

        None: the leases end each by its own time, whatever becomes of the connection.
        """
        ...

    def extender(self, *, lease: float) -> AbstractAsyncContextManager[Extender]:
        """Make an extender; it connects where its context is entered. The backend itself need not be open.

        Where the lease is the connection itself, only the process that holds the jobs can extend it.
        """
        ...


@runtime_checkable
class IssuesTickets(Protocol):
    """A source of such a backend. Other threads call these verbs: they only read, or set one attribute at a time."""

    def ticket(self, delivery: Delivery) -> bytes | None:
        """Return what an extender needs to know of this lease; None if it has ended here."""
        ...

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Note that an extender has started these leases anew, at that time of the event loop's clock."""
        ...

    def stood_still(self, seconds: float) -> None:
        """Note, in the event loop, that it stood still so long: what is read from now on came up to then earlier."""
        ...


class Lifeline(Protocol):
    """A connection that another process may write into while this one stands still.

    :ivar socket: the connection, without TLS: the state of TLS cannot be shared.
    :ivar unsent: one byte, of memory that the other process reads; 1 while a part of a frame is yet to be written.
    """

    socket: socket
    unsent: bytearray | memoryview


@runtime_checkable
class HasLifelines(Protocol):
    """A backend whose leases go on as long as its connections do, and these as long as something is written there.

    :ivar pulse: what is written; whole frames, which mean nothing else.
    """

    pulse: bytes

    def lifelines(self) -> Sequence[Lifeline]:
        """Return its connections of this moment, without those that no other process can write into."""
        ...


@runtime_checkable
class MadeOfURL(Protocol):
    """A backend or store that its class makes again of this URL: for another event loop, or in another process."""

    url: str
