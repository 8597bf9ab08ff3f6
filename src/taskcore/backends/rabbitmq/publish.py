"""Sending: a batch in one write, one wait for all its confirms, and another try for what was not stored.

Every message is persistent and mandatory: it is confirmed when it is durable, refused when its queue is full, returned
when nothing is bound for it. A returned message was surely not stored; its queue is opened, and it is sent again.

A message that was written and not confirmed is uncertain, whatever the reason: no answer in time, a lost connection, or
a server that blocks publishers because it runs out of memory or disk. While it blocks, nothing is written.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Final

from aio_pika.abc import AbstractChannel

from taskcore.backend import STORED, Published, Refused, Stored, Uncertain
from taskcore.backends.limits import too_large
from taskcore.backends.rabbitmq import layout
from taskcore.backends.rabbitmq.letters import browse_names
from taskcore.backends.rabbitmq.messages import RabbitMessage, with_delay
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.connection import ReconnectingConnection
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.batching import GroupCommit

__all__ = ["MAX_JOB", "MAX_MESSAGE", "Sender", "unavailable"]

WRITE_SIZE = 1 << 20  #: bytes written before the publisher waits for the server to keep up
MAX_MESSAGE = 16 * 1024 * 1024 - 4096  #: bytes; from version 4 on the server closes the channel above it
MAX_JOB = 15 * 1024 * 1024  #: bytes of a job that is sent; the rest is for its trail in retries and dead letters
KEPT_PACKERS = 4096  #: destinations whose first frame is kept packed
OPENING_TIME = 1.0  #: seconds that declaring and binding a queue may take, besides its age
ANNOUNCED_AT_ONCE: Final = 1_000  #: names of new queues
RESEND_AFTER: Final = (0.05, 0.1, 0.2, 0.4)  #: seconds before a refused job is sent again

REFUSED = Refused(
    "the broker refused it (basic.nack): its queue is full, or has no leader at the moment",
    "let workers empty the queue, or raise its limit: ?limit= in the URL of the app that created it, or max-length in "
    "a policy (rabbitmqctl list_policies)",
)
UNROUTED = Refused("no queue is bound for it")  #: the sender may open the queue and send again
NO_ANSWER = Uncertain("no confirm came")
NOT_PERMITTED: Final = "ACCESS_REFUSED"  #: in the server's text when this user may not write
LIMIT_NAME: Final = "max_message_size"
TOO_LARGE: Final = re.compile(r"larger than configured max size (\d+)")  #: in its text, with its max_message_size
EXCHANGE_GONE: Final = "no exchange"  #: in the server's text when the virtual host lost its data


class Sender:
    """Publishes, opens the queues that are not open, and sends again what the broker refused for a moment.

    Its connection only sends, because the server may block it.

    :ivar max_message: bytes that a message may have, as far as the server has told.
    """

    def __init__(self, admin: AdminChannel, options: layout.QueueOptions) -> None:
        self.topology = layout.Topology(admin, options, GroupCommit(self._announce, limit=ANNOUNCED_AT_ONCE).submit)
        self.connection = ReconnectingConnection(admin.connector, "publish")
        self.admin = admin
        self._connector = admin.connector
        self._limit = options.limit
        self._age = options.min_queue_age
        self.max_message = MAX_MESSAGE
        self.waits: Callable[[float], None] = lambda _: None  #: told the seconds that a new queue adds to a publish
        self._channel: _ConfirmChannel | None = None
        self._opening = asyncio.Lock()

    async def send(self, messages: Sequence[RabbitMessage], *, copies: bool = False) -> list[Published]:
        """Return one answer for each, in order. Jobs for queues that are not open wait until they are.

        :param copies: the messages are copies of held jobs: a full queue gets them a moment later.
        :raises BrokerUnavailable: surely none of them was stored.
        """
        sent = asyncio.get_running_loop().time()
        answers = await self._publish(messages)
        if all(answer is STORED for answer in answers):
            return answers
        if any(isinstance(answer, Uncertain) and EXCHANGE_GONE in answer.why for answer in answers):
            await self.topology.redeclare()
        await self._refuse_too_large(messages, answers)
        await self._resend_unrouted(messages, answers, sent)
        await self._resend_refused(messages, answers)
        if copies:
            await self._resend([with_delay(message) for message in messages], answers, _refused(answers))
        return [_if_not_permitted(message, answer) for message, answer in zip(messages, answers, strict=True)]

    # ── sending again ──

    async def _resend(
        self, messages: Sequence[RabbitMessage], answers: list[Published], indexes: Sequence[int]
    ) -> None:
        for index, answer in zip(indexes, await self._publish([messages[index] for index in indexes]), strict=True):
            answers[index] = answer

    async def _refuse_too_large(self, messages: Sequence[RabbitMessage], answers: list[Published]) -> None:
        """Learn a size at which the server closed the channel; send again what was behind the message that had it."""
        whys = (answer.why for answer in answers if isinstance(answer, Uncertain))
        found = next(filter(None, map(TOO_LARGE.search, whys)), None)
        if found is None:
            return
        self.max_message = min(self.max_message, int(found[1]))
        above = [index for index, one in enumerate(messages) if len(one.body) > self.max_message]
        behind = range(min(above, default=len(answers)), len(answers))
        for index in above:
            answers[index] = too_large(len(messages[index].body), self.max_message, LIMIT_NAME)
        await self._resend(messages, answers, [index for index in behind if isinstance(answers[index], Uncertain)])

    async def _resend_unrouted(self, messages: Sequence[RabbitMessage], answers: list[Published], sent: float) -> None:
        """Open the queues that are not open, and send what came back once more."""
        returned = [index for index, answer in enumerate(answers) if answer is UNROUTED]
        queues = {messages[index].queue for index in returned}
        for queue in queues:
            self.topology.mark_unrouted(queue, sent)
        if queues:
            self.waits(self._age + OPENING_TIME)
        await asyncio.gather(*(self.topology.open(queue) for queue in queues))
        await self._resend(messages, answers, returned)

    async def _resend_refused(self, messages: Sequence[RabbitMessage], answers: list[Published]) -> None:
        """Send again what was refused by a queue that is not full: it has no leader at the moment.

        A channel that has sent to a leader that died refuses for ever, so each attempt uses a new channel.
        """
        for pause in RESEND_AFTER:
            refused = [index for index in _refused(answers) if len(messages[index].body) <= self.max_message]
            full = {queue for queue in {messages[index].queue for index in refused} if await self._is_full(queue)}
            refused = [index for index in refused if messages[index].queue not in full]
            if not refused:
                return
            await asyncio.sleep(pause)
            if self._channel is not None:
                await self._channel.close()
            await self._resend(messages, answers, refused)

    async def _is_full(self, queue: str) -> bool:
        """Return whether its limit is reached, as far as the count shows."""
        return self._limit is not None and (await self.admin.count(layout.job_queue(queue)) or 0) >= self._limit

    async def _announce(self, queues: list[str]) -> list[None]:
        """Write the names of queues where other apps find them.

        :raises BrokerUnavailable: they could not be stored.
        """
        missing = set(queues).difference(await browse_names(self.admin))
        names = [RabbitMessage("", layout.QUEUE_NAMES, {}, queue.encode()) for queue in sorted(missing)]
        failure = unavailable(await self._publish(names))
        if failure is not None:
            raise failure
        return [None] * len(queues)

    # ── publishing ──

    async def _publish(self, messages: Sequence[RabbitMessage]) -> list[Published]:
        """Publish each message once; return one answer for each, in order.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        if not messages:
            return []
        within = self._connector.address.timeout
        until = asyncio.get_running_loop().time() + within
        channel = self._channel
        if channel is None or channel.is_closed or channel.connection.blocked_why:
            channel = await self._connector.run("publishing", self._ready_channel())
        batch = _PublishBatch(len(messages))
        try:
            async with asyncio.timeout_at(until):
                await _write(channel, messages, batch, self.max_message)
                await batch.done.wait()
        except (TimeoutError, OSError) as error:
            if not batch.written:
                with self._connector.errors("publishing"):
                    raise
            connection = channel.connection
            why = connection.blocked_why or connection.lost_why or f"{error}" or f"no confirm came within {within:g} s"
            if connection.blocked_why:
                why = f"the broker blocks publishers: {why}"
            return [Uncertain(why) if answer is NO_ANSWER else answer for answer in batch.answers]
        return batch.answers

    async def _ready_channel(self) -> _ConfirmChannel:
        """Return a channel that takes messages now.

        :raises TimeoutError: the server still blocks publishers; nothing was sent.
        """
        async with self._opening:
            connection = await self.connection.open()
            if connection.blocked_why:
                await connection.unblocked.wait()
            channel = self._channel
            if channel is None or channel.is_closed or channel.connection is not connection:
                channel = self._channel = _ConfirmChannel(connection, await connection.channel(confirms=True))
            return channel


class _PublishBatch:
    """Messages sent together, and how many of them have no answer yet."""

    __slots__ = ("answers", "done", "missing", "written")

    def __init__(self, count: int) -> None:
        self.answers: list[Published] = [NO_ANSWER] * count
        self.missing = count
        self.written = False
        self.done = asyncio.Event()

    def answer(self, index: int, answer: Published) -> None:
        if self.answers[index] is NO_ANSWER:
            self.answers[index] = answer
            self.missing -= 1
            if not self.missing:
                self.done.set()


class _ConfirmChannel(FilteredChannel):
    """A channel in confirm mode; knows which message each confirm is about."""

    def __init__(self, connection: FilteredConnection, channel: AbstractChannel) -> None:
        self._prefix = secrets.token_hex(6)
        self._last = 0  # the number of the message that was sent last
        self._unconfirmed: dict[int, tuple[_PublishBatch, int]] = {}  # by number, in the order of sending
        super().__init__(connection, channel)

    def expect(self, batch: _PublishBatch, index: int) -> bytes:
        """Register the next message; return its id, which no other message ever has."""
        self._last += 1
        self._unconfirmed[self._last] = (batch, index)
        return f"{self._prefix}.{self._last:x}".encode()

    def on_confirm(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Answer one message, or all up to it."""
        answer: Published = STORED if stored else REFUSED
        for number in list(takewhile(tag.__ge__, self._unconfirmed)) if multiple else (tag,):
            found = self._unconfirmed.pop(number, None)
            if found is not None:
                found[0].answer(found[1], answer)

    def on_return(self, properties: bytes) -> None:
        """Answer a message that no queue is bound for; its confirm is ignored."""
        prefix, _, number = frames.read_properties(properties).message_id.partition(b".")
        if prefix.decode(errors="replace") == self._prefix:
            found = self._unconfirmed.get(int(number, 16))
            if found is not None:
                found[0].answer(found[1], UNROUTED)

    def on_close(self, why: str) -> None:
        """Answer everything that is open: uncertain."""
        for batch, index in self._unconfirmed.values():
            batch.answer(index, Uncertain(f"no confirm came before the connection was lost: {why}"))
        self._unconfirmed.clear()


async def _write(channel: _ConfirmChannel, messages: Sequence[RabbitMessage], batch: _PublishBatch, limit: int) -> None:
    """Write everything in large pieces; nothing else may run between a message's number and its bytes."""
    written = 0
    packed: list[bytes] = []
    frame_max, number = channel.connection.frame_max, channel.number
    for index, message in enumerate(messages):
        if len(message.body) > limit:
            setting = LIMIT_NAME if limit < MAX_MESSAGE else None
            batch.answer(index, too_large(len(message.body), limit, setting))
            continue
        if channel.is_closed:
            raise ConnectionError(channel.lost_why)
        data = _packer(number, message.exchange, message.key, frame_max).pack(
            channel.expect(batch, index), message.headers, message.body
        )
        packed.append(data)
        written += len(data)
        batch.written = True
        if written > WRITE_SIZE:
            channel.write(b"".join(packed))
            packed, written = [], 0
            await channel.connection.drain()
    if packed:
        channel.write(b"".join(packed))


@lru_cache(KEPT_PACKERS)
def _packer(channel: int, exchange: str, key: str, frame_max: int) -> frames.MessagePacker:
    return frames.MessagePacker(channel, exchange, key, frame_max)


def _refused(answers: Sequence[Published]) -> list[int]:
    return [index for index, answer in enumerate(answers) if isinstance(answer, Refused)]


def _if_not_permitted(message: RabbitMessage, answer: Published) -> Published:
    """Turn the closed channel of a user who may not write into a refusal: surely nothing was stored."""
    if isinstance(answer, Uncertain) and NOT_PERMITTED in answer.why:
        exchange = message.exchange or "amq.default"
        if f"exchange '{exchange}'" in answer.why:
            return Refused(f"this user may not write to exchange {exchange}; permit it: rabbitmqctl set_permissions")
    return answer


def unavailable(answers: Sequence[Published]) -> BrokerUnavailable | None:
    """Return the error for copies that were not all stored; None if they were."""
    for answer in answers:
        if not isinstance(answer, Stored):
            why = answer.why if isinstance(answer, Refused | Uncertain) else repr(answer)
            return BrokerUnavailable("a copy of a job could not be stored", facts=[why], fix="it is tried again")
    return None
