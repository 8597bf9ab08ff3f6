"""Looking through queues: dead letters, and the names of all queues.

The protocol cannot look: a message that is seen is taken, until it is returned. So a queue that is browsed has one
browser at a time, over all connections and processes, and each sees all of it. What it does not drop returns in its
order when the browser closes, also when its process is killed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from heapq import nsmallest

import msgspec
from aio_pika.abc import AbstractChannel

from taskcore.backend import DUPLICATE, Letter, Outgoing, Published, Stored
from taskcore.backends.rabbitmq.layout import QUEUE_NAMES, dead_queue
from taskcore.backends.rabbitmq.messages import RabbitMessage, message_of, natural, split
from taskcore.backends.rabbitmq.publish import Publisher, Sender, unavailable
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.toolkit.detached import run_detached
from taskcore.toolkit.failpoints import failpoint

__all__ = ["DeadLetterQueue", "QueueNames", "queue_of"]

WINDOW = 500  #: messages asked for at once
QUIET_AFTER = 0.1  #: seconds without a message, after which the browser counts whether there is one
RETURN_CHECKS, RETURN_CHECK_PAUSE = 40, 0.005  #: until all messages are back in their queue; seconds
EXTRA_LETTERS = 100  #: kept in memory beyond those of a page

DIED, DIED_AT = b"x-death.reason", b"x-death.time"
REASONS = {
    b"rejected": "rejected by the broker: too large to copy with its error history",
    b"delivery_limit": "delivery limit: handed out again and again, and never settled",
}


class Browsed(msgspec.Struct, frozen=True):
    """One message, seen and not taken."""

    tag: int
    properties: frames.Properties
    body: bytes


class Browser(FilteredChannel):
    """One pass through a queue, from its head, on a channel of its own."""

    def __init__(self, connection: FilteredConnection, channel: AbstractChannel) -> None:
        self._buffer: deque[Browsed] = deque()
        self._news = asyncio.Event()
        self._ended_why = ""
        self._consumer = ""
        self.seen = 0
        self.dropped = 0
        super().__init__(connection, channel)

    def begin(self, admin: AdminChannel, queue: str, count: int) -> None:
        """Set what is read.

        :param count: how many messages there are now; later ones are left to the next browser. A count of 0 is not
            trusted, because a node says so of every queue in its first seconds: then everything that comes is read.
        """
        self._admin, self._queue, self._count = admin, queue, count or math.inf
        self._timeout = admin.connector.address.timeout

    async def messages(self) -> AsyncIterator[Browsed]:
        """Yield every message, oldest first."""
        while self.seen < self._count:
            await run_detached(self._ask_for_more(), timeout=self._timeout)
            for _ in range(WINDOW):
                if self.seen == self._count or (not self._buffer and not await self._wait_for_more()):
                    return
                self.seen += 1
                yield self._buffer.popleft()

    def drop(self, message: Browsed) -> None:
        """Remove a message from the queue."""
        self.dropped += 1
        self.write(frames.ack(self.number, message.tag, multiple=False))

    async def return_rest(self) -> None:
        """Return what was not dropped; be sure that what was dropped is gone."""
        # In one write, for the next browser to find everything: first no more deliveries, then all return (tag 0).
        self.write(self._cancel_frame() + frames.nack(self.number, 0, multiple=True))
        await self.sync(self._timeout, WINDOW)

    async def _ask_for_more(self) -> None:
        self.write(self._cancel_frame())
        await self.sync(self._timeout, WINDOW)
        self._consumer = f"window {self.seen}"
        await self.consume(self._queue, self._consumer)

    def _cancel_frame(self) -> bytes:
        return frames.cancel(self.number, self._consumer) if self._consumer else b""

    async def _wait_for_more(self) -> bool:
        """Wait for the next message; return False if there is none, because the broker discarded some meanwhile."""
        while not self._buffer:
            self._news.clear()
            if self._ended_why:
                raise ConnectionError(self._ended_why)
            try:
                async with asyncio.timeout(QUIET_AFTER):
                    await self._news.wait()
            except TimeoutError:
                counted = await self._admin.count(self._queue)
                await self.sync(self._timeout, WINDOW)  # what was on its way is here now
                if not self._buffer and (not counted or self._count == math.inf):  # a wrong count is not trusted again
                    return False
        return True

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:  # noqa: ARG002
        """Buffer a delivery."""
        self._buffer.append(Browsed(tag, frames.read_properties(properties), body))
        self._news.set()

    def on_cancel(self) -> None:
        """End: the queue is gone."""
        self.on_close("the queue was deleted meanwhile")

    def on_close(self, why: str) -> None:
        """End."""
        self._ended_why = why
        self._news.set()


@asynccontextmanager
async def browse(admin: AdminChannel, queue: str) -> AsyncIterator[Browser | None]:
    """Open a browser; None if there is no such queue. Keep it short: nothing else can browse the queue meanwhile.

    :raises BrokerUnavailable: it took too long, or the connection was lost; then nothing was dropped.
    """
    within = admin.connector.address.timeout
    with admin.connector.errors(f"browsing queue {queue}"):
        async with asyncio.timeout(within), admin.exclusive(f"{queue}.reader"):
            count = await admin.count(queue)
            if count is None:
                yield None
                return
            browser = await admin.open_channel(Browser)
            browser.begin(admin, queue, count)
            try:
                yield browser
                await browser.return_rest()
            finally:
                await browser.close()
            for _ in range(RETURN_CHECKS):  # the next browser trusts the count, so everything must be back
                if (await admin.count(queue) or 0) >= (count or browser.seen) - browser.dropped:
                    break
                await asyncio.sleep(RETURN_CHECK_PAUSE)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


class QueueNames:
    """The names of all queues, in a queue of their own; a queue may be gone although its name is here."""

    def __init__(self, admin: AdminChannel, publisher: Publisher) -> None:
        self._admin = admin
        self._publisher = publisher

    async def read(self) -> list[str]:
        """Return every name once."""
        return await self._browse(without="")

    async def add(self, queue: str) -> None:
        """Add a name if it is missing.

        :raises BrokerUnavailable: it could not be stored.
        """
        if queue not in await self.read():
            failure = unavailable(await self._publisher.publish([RabbitMessage("", QUEUE_NAMES, {}, queue.encode())]))
            if failure is not None:
                raise failure

    async def remove(self, queue: str) -> None:
        """Remove a name."""
        await self._browse(without=queue)

    async def _browse(self, *, without: str) -> list[str]:
        found: dict[str, None] = {}
        async with browse(self._admin, QUEUE_NAMES) as browser:
            if browser is not None:
                async for message in browser.messages():
                    name = message.body.decode(errors="replace")
                    if name in found or name == without:  # added by two processes at once, or to be removed
                        browser.drop(message)
                    else:
                        found[name] = None
        return list(found)


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────


class DeadLetterQueue:
    """The dead letters of all queues.

    The id of a letter is ``<when>.<message>.<queue>``: ids sort by time, and name the queue of a letter that is gone.
    """

    def __init__(self, admin: AdminChannel, sender: Sender) -> None:
        self._admin = admin
        self._sender = sender

    async def page(self, queue: str, limit: int, after: str | None) -> Sequence[Letter]:
        """Return up to ``limit`` letters behind a letter, oldest first.

        Each page browses all of them, because the broker does not keep the order of returned messages.
        """
        found: list[Letter] = []
        originals: set[bytes] = set()
        async with browse(self._admin, dead_queue(queue)) as browser:
            if browser is None:
                return []
            async for message in browser.messages():
                original = message.properties.headers.get(b"tc-of", b"")
                if isinstance(original, bytes) and original:
                    if original in originals:  # stored twice: its worker was killed before it settled the original
                        browser.drop(message)
                        continue
                    originals.add(original)
                letter = _letter(message, queue)
                if after is None or letter.id > after:
                    found.append(letter)
                if len(found) > 2 * limit + EXTRA_LETTERS:
                    found = nsmallest(limit, found, key=_id)
        return nsmallest(limit, found, key=_id)

    async def get(self, letter_id: str) -> Letter | None:
        """Return one letter."""
        async with self._find(letter_id) as (_, message):
            return _letter(message, queue_of(letter_id)) if message is not None else None

    async def drop(self, letter_id: str) -> bool:
        """Drop a letter; return False if there is none of that id."""
        async with self._find(letter_id) as (browser, message):
            if browser is None or message is None:
                return False
            browser.drop(message)
            return True

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Send the job, then drop the letter; a letter that is gone was replayed or dropped before."""
        async with self._find(letter_id) as (browser, message):
            if browser is None or message is None:
                return DUPLICATE
            [answer] = await self._sender.send([message_of(job)])
            if isinstance(answer, Stored):
                failpoint("rabbitmq.replay.stored")
                browser.drop(message)
            return answer

    @asynccontextmanager
    async def _find(self, letter_id: str) -> AsyncIterator[tuple[Browser | None, Browsed | None]]:
        """Browse for one letter."""
        queue = queue_of(letter_id)
        async with browse(self._admin, dead_queue(queue)) as browser:
            if browser is not None:
                async for message in browser.messages():
                    if _letter(message, queue).id == letter_id:
                        yield browser, message
                        return
            yield None, None


def _letter(message: Browsed, queue: str) -> Letter:
    """Read a message in a queue of dead letters, whatever program put it there."""
    properties = message.properties
    envelope, trail, reason = split(properties, message.body)
    when = natural(properties, b"tc-when") or 1_000_000 * natural(properties, DIED_AT)
    if reason:
        text = reason.decode(errors="replace")
    else:
        died = properties.headers.get(DIED)
        moved = f"moved here by the broker: {died.decode(errors='replace')}" if isinstance(died, bytes) else "unknown"
        text = REASONS.get(died, moved) if isinstance(died, bytes) else moved
    return Letter(
        id=f"{when:014x}.{_word(properties.message_id)}.{queue}",
        queue=queue,
        envelope=envelope,
        trail=trail,
        reason=text,
        when=when / 1_000_000,
    )


def _id(letter: Letter) -> str:
    return letter.id


def _word(message_id: bytes) -> str:
    """Return the id of a message as one word, whatever a foreign one holds."""
    text = message_id.replace(b".", b"-")
    return text.decode() if text.replace(b"-", b"").isalnum() and text.isascii() else f"x{message_id.hex()}"


def queue_of(letter_id: str) -> str:
    """Return the queue in a letter's id; "" if it is no such id."""
    return letter_id.split(".", 2)[-1] if letter_id.count(".") >= 2 else ""  # noqa: PLR2004 - three parts
