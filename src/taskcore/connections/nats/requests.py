"""Requests: many at once over one connection, and each one's answer.

A request has a reply subject of its own below our inbox, ``inbox.batch.index``, by which its answer finds it. They are
written in pieces, because the server begins while the rest is still written; at most a window of them is unanswered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from math import inf
from typing import Final

from taskcore.connections.nats.protocol import Answer, Message, encode_message
from taskcore.connections.nats.raw import RawConnection
from taskcore.toolkit.timeouts import SharedTimer

__all__ = ["Requests"]

PIECE, PIECE_BYTES = 500, 250_000  #: messages and bytes that are written at once
WINDOW: Final = 1_000  #: messages without an answer, at most …
WINDOW_BYTES: Final = 4_000_000  #: … and their bytes


class _Answers:
    """Answers that are waited for."""

    __slots__ = ("answers", "ends", "late", "left", "news", "target")

    def __init__(self, size: int) -> None:
        self.answers: list[Answer | None] = [None] * size
        self.left = size
        self.ends = inf  # on the loop's clock; the timer sets it
        self.late = False
        self.target = 0
        self.news: asyncio.Future[None] | None = None

    def take(self, index: int, answer: Answer) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.left -= 1
            if self.left <= self.target:
                self.wake()

    def wake(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)

    def expire(self) -> float:
        self.late = True
        self.wake()
        return inf


class Requests:
    """Requests that wait for answers.

    :param inbox: answers come below it; the owner of the connection subscribes to ``inbox.*.*`` with ``take``.
    """

    def __init__(self, inbox: bytes) -> None:
        self.batches: dict[bytes, _Answers] = {}
        self._inbox = inbox
        self._numbers = count(1)
        self._timer = SharedTimer()

    async def send(
        self, connection: RawConnection, messages: Sequence[Message], *, ahead: bytes, timeout: float
    ) -> list[Answer | None]:
        """Send all, in order, and collect each one's answer; None for one that did not come in time.

        :param ahead: frames to be written before them, without answers.
        """
        key = b"%x" % next(self._numbers)
        batch = self.batches[key] = _Answers(len(messages))
        self._timer.add(batch, timeout + len(messages) / WINDOW)
        try:
            await self._send_all(connection, batch, messages, b"%b.%b." % (self._inbox, key), ahead)
        finally:
            del self.batches[key]
            self._timer.discard(batch)
        return batch.answers

    async def _send_all(
        self, connection: RawConnection, batch: _Answers, messages: Sequence[Message], prefix: bytes, ahead: bytes
    ) -> None:
        """Write in pieces, with at most a window of messages unanswered."""
        total, sent, unanswered = len(messages), 0, 0
        while sent < total and connection.alive and not batch.late:
            frames, first = [ahead], sent
            ahead, size = b"", 0
            while sent < total and sent - first < PIECE and size < PIECE_BYTES:
                frame = encode_message(messages[sent], b"%b%x" % (prefix, sent))
                frames.append(frame)
                size += len(frame)
                sent += 1
            connection.write(b"".join(frames))
            unanswered += size
            if sent - (total - batch.left) > WINDOW - PIECE or unanswered > WINDOW_BYTES:
                await connection.written(until=batch.ends)
                await self._until(connection, batch, total - sent + WINDOW // 2)
                unanswered = 0
        await connection.written(until=batch.ends)
        await self._until(connection, batch, 0)

    async def _until(self, connection: RawConnection, batch: _Answers, target: int) -> None:
        """Wait until no more than so many answers are missing, the time is over, or the connection is gone."""
        while batch.left > target and connection.alive and not batch.late:
            batch.target = target
            batch.news = asyncio.get_running_loop().create_future()
            await batch.news

    def take(self, subject: bytes, _: bytes, body: bytes, headers: bytes) -> None:
        """Give an answer to its batch."""
        _, key, index = subject.rsplit(b".", 2)
        batch = self.batches.get(key)
        if batch is not None:
            batch.take(int(index, 16), Answer(body, headers))

    def wake_all(self) -> None:
        """Let every waiter see that the connection is gone."""
        for batch in self.batches.values():
            batch.wake()
