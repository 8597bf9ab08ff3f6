"""Cutting: a connection that breaks at the next use of a verb, before the broker hears of it or after it has answered.

    line = Line()
    backend = CutBackend(backend, line)
    line.cut("settle", "reply")           the next settle is carried out, its reply is lost

Only what the model needs: one cut at a time, at the seam's verbs. It also keeps what was sent, byte by byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Self, TypeAlias

from taskcore.backend import Admin, Backend, Delivery, Features, Outgoing, Published, Source, Uncertain
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Verdict

__all__ = ["CutBackend", "FaultyConnection", "LostPart"]

LostPart: TypeAlias = Literal["request", "reply"]


class FaultyConnection:
    """The state of the connection: where it will break next, and all envelopes that went over it, by job id."""

    def __init__(self) -> None:
        self.sent: defaultdict[str, set[bytes]] = defaultdict(set)
        self._verb: str | None = None
        self._part: LostPart | None = None

    def cut(self, verb: str, part: LostPart | None) -> None:
        """Break at the next use of this verb; None: do not."""
        self._verb, self._part = (None, None) if part is None else (verb, part)

    def heal(self) -> None:
        """Break nowhere."""
        self._verb = self._part = None

    def breaks(self, verb: str, part: LostPart) -> bool:
        """Tell whether it breaks here; it does so once."""
        if self._verb == verb and self._part == part:
            self.heal()
            return True
        return False


class CutBackend:
    """An open backend behind a connection that can break; opening and closing are its owner's."""

    def __init__(self, backend: Backend, connection: FaultyConnection) -> None:
        self._backend = backend
        self._connection = connection

    @property
    def features(self) -> Features:
        """Those of the backend."""
        return self._backend.features

    @property
    def admin(self) -> Admin:
        """That of the backend; it is never cut."""
        return self._backend.admin

    async def __aenter__(self) -> Self:
        """Return the backend, which is open already."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the backend open: its owner closes it."""

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Publish; without a request nothing is stored for sure, without a reply it may be."""
        if self._connection.breaks("publish", "request"):
            raise BrokerUnavailable("publish: the connection broke")
        for outgoing in batch:
            self._connection.sent[outgoing.id].add(outgoing.envelope)
        answers = await self._backend.publish(batch)
        if self._connection.breaks("publish", "reply"):
            return [Uncertain("the connection broke") for _ in batch]
        return answers

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """Open a source behind the same connection."""
        return _consuming(self._backend.consume(queues, lease=lease), self._connection)


@asynccontextmanager
async def _consuming(
    context: AbstractAsyncContextManager[Source], connection: FaultyConnection
) -> AsyncIterator[Source]:
    async with context as source:
        yield _CutSource(source, connection)


class _CutSource:
    """A source behind a connection that can break."""

    def __init__(self, source: Source, connection: FaultyConnection) -> None:
        self._source = source
        self._connection = connection

    async def receive(self, limit: int) -> Sequence[Delivery]:
        deliveries = await self._source.receive(limit)
        if self._connection.breaks("receive", "reply"):
            raise BrokerUnavailable("receive: the connection broke")
        return deliveries

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        if self._connection.breaks("settle", "request"):
            raise BrokerUnavailable("settle: the connection broke")
        lost = await self._source.settle(batch)
        if self._connection.breaks("settle", "reply"):
            raise BrokerUnavailable("settle: the connection broke")
        return lost

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        return await self._source.extend(batch)
