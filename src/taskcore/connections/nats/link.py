"""NatsLink: one supervised connection to a NATS server or cluster, with requests and JetStream's API.

async with NatsLink(address, name="worker") as link:
answers = await link.request_all([Message(…), …])    each with its answer, or None
info = await link.api("STREAM.INFO.x")               JetStream's API, as a dict
link.subscribe(subject, handler)                     lives through reconnects

A request has a reply subject of its own below our inbox, ``inbox.batch.index``, by which its answer finds it. They are
written in pieces, because the server begins while the rest is still written; at most a window of them is unanswered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any, Final, TypeAlias

import msgspec

from taskcore.connections.jetstream_limits import refused
from taskcore.connections.nats.address import NatsAddress
from taskcore.connections.nats.connection import SupervisedConnection
from taskcore.connections.nats.protocol import Message, Reply, encode_message
from taskcore.connections.nats.raw import RawConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.timeouts import SharedTimer

__all__ = ["NOT_FOUND", "NO_CONSUMER", "REPLY_TIMEOUT", "ApiCall", "NatsLink", "decode_answer", "error_of"]

REPLY_TIMEOUT: Final = 5.0  #: seconds for which an answer is waited for
WRITE_MESSAGES, WRITE_BYTES = 500, 250_000  #: messages and bytes that are written at once
OPEN_REQUESTS: Final = 1_000  #: messages without an answer, at most …
OPEN_BYTES: Final = 4_000_000  #: … and their bytes

NO_CONSUMER: Final = 10014
#: Errors which say that a stream, a consumer or a message is not there. All others say that no server can tell.
NOT_FOUND: Final = (10059, NO_CONSUMER, 10037, 10043, 10057)

#: The name of a request to JetStream's API, and its body; None: none.
ApiCall: TypeAlias = tuple[str, Any]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_answer(body: bytes) -> dict[str, Any]:
    """Return the object in these bytes; empty if there is none."""
    try:
        found = _decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def error_of(answer: Mapping[str, Any]) -> int:
    """Return the code of an answer's error; 0 if there is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if isinstance(error, Mapping) else 0


class _Batch:
    """Requests that wait for their answers."""

    __slots__ = ("answers", "ends", "left", "news", "over", "target")

    def __init__(self, size: int) -> None:
        self.answers: list[Reply | None] = [None] * size
        self.left = size
        self.ends = inf  # on the loop's clock; the timer sets it
        self.over = False  # no more answers are waited for
        self.target = 0
        self.news: asyncio.Future[None] | None = None

    def take(self, index: int, answer: Reply) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.left -= 1
            if self.left <= self.target:
                self._wake()

    def expire(self) -> float:
        self.over = True
        self._wake()
        return inf

    async def until(self, target: int) -> None:
        """Wait until no more than so many answers are missing, or none is waited for."""
        while self.left > target and not self.over:
            self.target = target
            self.news = asyncio.get_running_loop().create_future()
            await self.news

    def _wake(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class NatsLink(SupervisedConnection):
    """One supervised connection, with answers. Use it with ``async with``.

    :param name: what the server's monitoring shows.
    """

    def __init__(self, address: NatsAddress, *, name: str = "taskcore") -> None:
        super().__init__(address, name=name)
        self.level = 0  #: of the JetStream API: 1 from NATS 2.11, 2 from 2.12
        self._batches: dict[bytes, _Batch] = {}
        self._batch_numbers = count(1)
        self._timer = SharedTimer()
        self.subscribe(self._inbox + b".*.*", self._take)
        self.on_lost.append(self._give_up)

    # ── requests ──

    async def request_all(self, messages: Sequence[Message], *, ahead: bytes = b"") -> list[Reply | None]:
        """Send all, in order, and collect each one's answer; None for one that did not come in time.

        :param ahead: frames to be written before them, without answers.
        :raises BrokerUnavailable: nothing was sent.
        """
        connection, key = await self.ready(), b"%x" % next(self._batch_numbers)
        batch = self._batches[key] = _Batch(len(messages))
        self._timer.add(batch, REPLY_TIMEOUT + len(messages) / OPEN_REQUESTS)
        try:
            await self._send_all(connection, batch, messages, b"%b.%b." % (self._inbox, key), ahead)
        finally:
            del self._batches[key]
            self._timer.discard(batch)
        return batch.answers

    async def request_again(
        self, messages: Sequence[Message], repair: Callable[[], Awaitable[object]], *, tries: int = 1
    ) -> list[Reply | None]:
        """Send all; send those again that no server took, after a repair.

        :raises BrokerUnavailable: nothing was sent, or the repair failed.
        """
        answers = await self.request_all(messages)
        for _ in range(tries):
            untaken = [index for index, answer in enumerate(answers) if answer is not None and answer.status == b"503"]
            if not untaken:
                break
            await repair()
            again = await self.request_all([messages[index] for index in untaken])
            for index, answer in zip(untaken, again, strict=True):
                answers[index] = answer
        return answers

    async def _send_all(
        self, connection: RawConnection, batch: _Batch, messages: Sequence[Message], prefix: bytes, ahead: bytes
    ) -> None:
        """Write in pieces, with at most a window of messages unanswered."""
        total, sent, unanswered = len(messages), 0, 0
        while sent < total and not batch.over:
            frames, first = [ahead], sent
            ahead, size = b"", 0
            while sent < total and sent - first < WRITE_MESSAGES and size < WRITE_BYTES:
                frame = encode_message(messages[sent], b"%b%x" % (prefix, sent))
                frames.append(frame)
                size += len(frame)
                sent += 1
            connection.write(b"".join(frames))
            unanswered += size
            if sent - (total - batch.left) > OPEN_REQUESTS - WRITE_MESSAGES or unanswered > OPEN_BYTES:
                await connection.written(until=batch.ends)
                await batch.until(total - sent + OPEN_REQUESTS // 2)
                unanswered = 0
        await connection.written(until=batch.ends)
        await batch.until(0)

    def _take(self, subject: bytes, _: bytes, body: bytes, headers: bytes) -> None:
        """Give an answer to its batch."""
        _, key, index = subject.rsplit(b".", 2)
        batch = self._batches.get(key)
        if batch is not None:
            batch.take(int(index, 16), Reply(body, headers))

    def _give_up(self) -> None:
        """Let no batch wait for answers: the connection is gone."""
        for batch in self._batches.values():
            batch.expire()

    # ── JetStream's API ──

    async def api(self, name: str, body: Any = None, *, allowed: Container[int] | None = NOT_FOUND) -> dict[str, Any]:
        """Send one request to JetStream's API; see ``api_all``."""
        [answer] = await self.api_all([(name, body)], allowed=allowed)
        return answer

    async def api_all(
        self, calls: Sequence[ApiCall], *, allowed: Container[int] | None = NOT_FOUND
    ) -> list[dict[str, Any]]:
        """Send requests to JetStream's API; return their answers. One with an ``error`` says that something is absent.

        The difference to other errors matters: a stream without a leader answers with an error too, and a caller that
        took it for "not there" would forget jobs that exist.

        :param allowed: the codes of errors that are returned, not raised; None: all of them.
        :raises BrokerUnavailable: no answer came, or one with another error.
        """
        messages = [
            Message((self.address.api + name).encode(), b"" if body is None else _encode(body)) for name, body in calls
        ]
        found: list[dict[str, Any]] = []
        for (name, _), answer in zip(calls, await self.request_all(messages), strict=True):
            if answer is None:
                raise self.unavailable(f"JetStream did not answer in time to {name}")
            said = decode_answer(answer.body)
            if answer.status == b"503":
                said = {"error": {"code": 503, "description": "no server answers for JetStream"}}
            code = error_of(said)
            if code and allowed is not None and code not in allowed:
                raise refused(name, said["error"], code)
            found.append(said)
        return found

    async def pages(self, name: str, body: Mapping[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield the pages of an answer that may be long, until one has an error."""
        offset, total = 0, 1
        while offset < total:
            page = await self.api(name, {**(body or {}), "offset": offset})
            yield page
            offset, total = offset + page.get("limit", 1), page.get("total", 0)

    async def _greet(self) -> None:
        """Ask for the level of JetStream's API; servers before 2.11 do not say one."""
        answer = await self.api("INFO", allowed=None)
        if "error" in answer:
            raise BrokerUnavailable(
                "NATS answers, JetStream does not",
                facts=[str(answer["error"].get("description"))],
                fix="start it with JetStream: nats-server -js   (jetstream {} in its configuration)",
            )
        level = answer.get("api", {}).get("level", 0)
        self.level = int(level) if isinstance(level, int) else 0
