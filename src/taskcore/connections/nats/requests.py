"""Exchange: many requests at once over one connection, and each one's answer.

A request has a reply subject of its own below our inbox, ``inbox.batch.index``, by which its answer finds it. They are
written in pieces, so that the server begins while we still write, and no more than a window of them wait for answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from taskcore.connections.nats.wire import Answer, Parcel, Wire, frame

__all__ = ["Exchange"]

PIECE, PIECE_BYTES = 500, 250_000  #: parcels and bytes that are written at once
WINDOW = 1_000  #: parcels without an answer, at most …
WINDOW_BYTES = 4_000_000  #: … and their bytes


class _Batch:
    """Answers that are waited for."""

    __slots__ = ("answers", "deadline", "late", "left", "news", "target")

    def __init__(self, size: int, deadline: float) -> None:
        self.answers: list[Answer | None] = [None] * size
        self.left = size
        self.deadline = deadline  # on the loop's clock
        self.late = False
        self.target = 0
        self.news: asyncio.Future[None] | None = None

    def take(self, index: int, answer: Answer) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.left -= 1
            if self.left <= self.target:
                self.tell()

    def tell(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class Exchange:
    """Requests that wait for answers.

    :param inbox: answers come below it; who has the connection hears ``inbox.*.*`` and gives them to ``take``.
    """

    def __init__(self, inbox: bytes) -> None:
        self.batches: dict[bytes, _Batch] = {}
        self._inbox = inbox
        self._numbers = count(1)
        self._timer: asyncio.TimerHandle | None = None

    async def answers(
        self, wire: Wire, parcels: Sequence[Parcel], *, ahead: bytes, timeout: float
    ) -> list[Answer | None]:
        """Send all, in order, and collect each one's answer; None for one that did not come in time.

        :param ahead: frames to be written before them, without answers.
        """
        key, batch = self._begin(len(parcels), timeout + len(parcels) / WINDOW)
        prefix = b"%b.%b." % (self._inbox, key)
        try:
            await self._send_all(wire, batch, parcels, prefix, ahead)
        except OSError as error:
            await wire.broke(error)
        finally:
            del self.batches[key]
        return batch.answers

    async def _send_all(
        self, wire: Wire, batch: _Batch, parcels: Sequence[Parcel], prefix: bytes, ahead: bytes
    ) -> None:
        """In pieces, so that the server begins while we still write; a window of them without answers at most."""
        total, sent, unanswered = len(parcels), 0, 0
        while sent < total and wire.alive and not batch.late:
            frames, first = [ahead], sent
            ahead, size = b"", 0
            while sent < total and sent - first < PIECE and size < PIECE_BYTES:
                one = frame(parcels[sent], b"%b%x" % (prefix, sent))
                frames.append(one)
                size += len(one)
                sent += 1
            wire.write(b"".join(frames))
            unanswered += size
            if sent - (total - batch.left) > WINDOW - PIECE or unanswered > WINDOW_BYTES:
                await wire.written(until=batch.deadline)
                await self._until(wire, batch, total - sent + WINDOW // 2)
                unanswered = 0
        await wire.written(until=batch.deadline)
        await self._until(wire, batch, 0)

    async def _until(self, wire: Wire, batch: _Batch, target: int) -> None:
        """Wait until no more than so many answers are missing, the time is over, or the connection is gone."""
        while batch.left > target and wire.alive and not batch.late:
            batch.target = target
            batch.news = asyncio.get_running_loop().create_future()
            await batch.news

    async def round_trip(self, wire: Wire, *, timeout: float) -> bool:
        """To the server and back, a parcel to ourselves; False if nothing came back."""
        key, batch = self._begin(1, timeout)
        try:
            wire.write(frame(Parcel(b"%b.%b.0" % (self._inbox, key), b"")))
            await self._until(wire, batch, 0)
        finally:
            del self.batches[key]
        return not batch.left

    def take(self, subject: bytes, _: bytes, body: bytes, headers: bytes) -> None:
        """An answer that came."""
        _, key, index = subject.rsplit(b".", 2)
        batch = self.batches.get(key)
        if batch is not None:
            batch.take(int(index, 16), Answer(body, headers))

    def lost(self) -> None:
        """The connection is gone: everybody who waits looks up, and sees that."""
        for batch in self.batches.values():
            batch.tell()

    # ── time limits: one timer for all batches, because one for each would cost as much as the rest of it ──

    def _begin(self, size: int, timeout: float) -> tuple[bytes, _Batch]:
        """A new batch that waits for its answers for so many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._timer is None or deadline < self._timer.when():
            self._look_at(loop, deadline)
        key = b"%x" % next(self._numbers)
        batch = self.batches[key] = _Batch(size, deadline)
        return key, batch

    def _look_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._look, loop, when)

    def _look(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Wake the batches whose time is over; look again when the next one's is."""
        self._timer = None
        for batch in self.batches.values():
            if batch.deadline <= now:
                batch.late = True
                batch.tell()
        waiting = [batch.deadline for batch in self.batches.values() if not batch.late]
        if waiting:
            self._look_at(loop, min(waiting))
