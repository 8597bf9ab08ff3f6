"""What a backend, its sources and a store may have beside their verbs, to be kept from outside of the event loop.

An adapter has these verbs or has them not; it imports nothing of this room.

    Backend  LendsExtenders   extender: extends leases by their tickets, in another thread or another process
    Source   IssuesTickets    ticket: a lease as bytes · extended · stood_still
    Store    OpensAgain       another: a second store over the same records, for another event loop
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from taskcore.backend import Delivery
from taskcore.store import Store

__all__ = ["Extender", "IssuesTickets", "LendsExtenders", "OpensAgain"]


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


@runtime_checkable
class OpensAgain(Protocol):
    """A store that another thread can open beside, over connections of its own."""

    def another(self) -> Store:
        """Make a second store over the same records, not yet open."""
        ...
