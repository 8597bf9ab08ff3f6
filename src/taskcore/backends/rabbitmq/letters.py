"""Looking through queues: dead letters, and the names of all queues.

The protocol cannot look: a message that is seen is taken, until it is returned. So a queue that is browsed has one
browser at a time, over all connections and processes, and each sees all of it. What it does not drop returns when the
browser is left, also when its caller is cancelled or its process is killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from heapq import nsmallest

import anyio
import msgspec
from aio_pika.abc import AbstractChannel

from taskcore.backend import Letter, Outgoing, Published, Stored
from taskcore.backends.rabbitmq.layout import QUEUE_NAMES, dead_queue
from taskcore.backends.rabbitmq.messages import RabbitMessage, message_of, natural, split
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.toolkit.detached import run_detached
from taskcore.toolkit.failpoints import failpoint

__all__ = ["RabbitWalk", "browse_names", "browse_page", "queue_of", "walk_letters"]

BROWSED_AT_ONCE = 500  #: messages asked for at once
QUIET_AFTER = 0.1  #: seconds without a message, after which the browser counts whether there is one
RETURN_CHECKS, RETURN_CHECK_PAUSE = 40, 0.005  #: until all messages are back in their queue; seconds
RETURNED_BETWEEN_CHECKS = 250  #: messages that a server returns in such a pause, at least
STEP_TIMEOUTS = 4  #: of a call, for what is done in several calls
NAME = re.compile(r"[A-Za-z0-9_.:@#,/+ -]{1,200}")  #: of a queue, as the protocol takes it
EXTRA_LETTERS = 100  #: kept in memory beyond those of a page

DIED, DIED_AT = b"x-death.reason", b"x-death.time"
REASONS = {
    b"rejected": b"rejected by the broker: too large to copy with its error history",
    b"maxlen": b"dropped by the broker: its queue was full, and a policy says drop-head",
    b"expired": b"dropped by the broker: a policy says message-ttl",
    b"delivery_limit": b"delivery limit: handed out again and again, and never settled",
}


class Browsed(msgspec.Struct, frozen=True):
    """One message, seen and not taken."""

    tag: int
    properties: frames.Properties
    body: bytes


class Browser(FilteredChannel):
    """One pass through a queue, from its head, on a channel of its own.

    :param count: how many messages there are now; later ones are left to the next browser. None: there is no such
        queue. A count of 0 is not trusted, because a node says so of every queue in its first seconds: then everything
        that comes is read.
    """

    def __init__(
        self,
        connection: FilteredConnection,
        channel: AbstractChannel,
        admin: AdminChannel,
        queue: str,
        count: int | None,
    ) -> None:
        self._admin, self._queue = admin, queue
        self._counted = count
        self._count = math.inf if count == 0 else count or 0
        self._buffer: deque[Browsed] = deque()
        self._news = asyncio.Event()
        self._ended_why = ""
        self.seen = 0
        self.dropped = 0
        self.settling = asyncio.Lock()  #: held while what was seen is replayed: only then it may return
        super().__init__(connection, channel)

    async def messages(self) -> AsyncIterator[Browsed]:
        """Yield every message, oldest first."""
        while self.seen < self._count:
            await run_detached(self._ask_for_more(), timeout=self.connection.timeout)
            for _ in range(BROWSED_AT_ONCE):
                if self.seen == self._count or (not self._buffer and not await self._wait_for_more()):
                    return
                self.seen += 1
                yield self._buffer.popleft()

    def drop(self, tag: int) -> None:
        """Remove a message from the queue."""
        self.dropped += 1
        self.write(frames.ack(self.number, tag, multiple=False))

    async def leave(self) -> None:
        """Return what was not dropped, and end when it is back: the next browser trusts the count."""
        async with self.settling:
            try:
                if self.consumer:
                    # In one write, for the next browser to find everything: first no more deliveries, then all return.
                    self.write(frames.cancel(self.number, self.consumer) + frames.nack(self.number, 0, multiple=True))
                    await self.sync(BROWSED_AT_ONCE)
            finally:
                await self.close()
            for _ in range(RETURN_CHECKS + self.seen // RETURNED_BETWEEN_CHECKS):
                if (await self._admin.count(self._queue) or 0) >= (self._counted or self.seen) - self.dropped:
                    break
                await asyncio.sleep(RETURN_CHECK_PAUSE)

    async def _ask_for_more(self) -> None:
        if self.consumer:
            self.write(frames.cancel(self.number, self.consumer))
        await self.consume(self._queue, BROWSED_AT_ONCE)

    async def _wait_for_more(self) -> bool:
        """Wait for the next message; return False if there is none, because the broker discarded some meanwhile."""
        until = asyncio.get_running_loop().time() + self.connection.timeout
        while not self._buffer:
            if asyncio.get_running_loop().time() > until:
                raise TimeoutError("the broker counts messages, and sends none")
            self._news.clear()
            if self._ended_why:
                raise ConnectionError(self._ended_why)
            try:
                async with asyncio.timeout(QUIET_AFTER):
                    await self._news.wait()
            except TimeoutError:
                counted = await self._admin.count(self._queue)
                await self.sync(BROWSED_AT_ONCE)  # what was on its way is here now
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
async def browse(admin: AdminChannel, queue: str) -> AsyncIterator[Browser]:
    """Open a browser. Keep it short: nothing else can browse the queue meanwhile.

    :raises BrokerUnavailable: no message came in time, or the connection was lost; what was not dropped returns.
    """
    within = admin.connector.address.timeout
    with admin.connector.errors(f"browsing queue {queue}"):
        async with AsyncExitStack() as locked:
            async with asyncio.timeout(within):
                await locked.enter_async_context(admin.exclusive(f"{queue}.reader"))
            browser = await run_detached(_open_browser(admin, queue, await admin.count(queue)), timeout=within)
            try:
                yield browser
            finally:
                with anyio.CancelScope(shield=True), suppress(OSError):  # a channel that is lost returns all by itself
                    await run_detached(browser.leave(), timeout=STEP_TIMEOUTS * within)


async def _open_browser(admin: AdminChannel, queue: str, count: int | None) -> Browser:
    connection = await admin.connection.open()
    return Browser(connection, await connection.channel(), admin, queue, count)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


async def browse_names(admin: AdminChannel, *, without: str = "") -> list[str]:
    """Return the names of all queues once each; a queue may be gone although its name is here.

    :param without: a name that is removed.
    """
    found: dict[str, None] = {}
    async with browse(admin, QUEUE_NAMES) as browser:
        async for message in browser.messages():
            name = message.body.decode(errors="replace")
            if name in found or name == without:  # added by two processes at once, or to be removed
                browser.drop(message.tag)
            elif NAME.fullmatch(name):  # another program may have written what no queue is called
                found[name] = None
    return list(found)


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────


class RabbitWalk:
    """See :class:`taskcore.backend.LetterWalk`: one browser, which holds all letters that it has seen.

    :param send: publishes; see :class:`taskcore.backends.rabbitmq.publish.Sender`.
    """

    def __init__(
        self, browser: Browser, queue: str, send: Callable[[Sequence[RabbitMessage]], Awaitable[Sequence[Published]]]
    ) -> None:
        self._browser = browser
        self._queue = queue
        self._send = send
        self._messages = browser.messages()
        self._tags: dict[str, list[int]] = {}  # of the letters with this id; only foreign ones can be several
        self._originals: set[bytes] = set()

    async def page(self, limit: int) -> Sequence[Letter]:
        """Return the next letters."""
        found: list[Letter] = []
        while len(found) < limit and (message := await anext(self._messages, None)) is not None:
            if self._is_copy(message):
                self._browser.drop(message.tag)
                continue
            letter = letter_of(message, self._queue)
            self._tags.setdefault(letter.id, []).append(message.tag)
            found.append(letter)
        return found

    async def find(self, letter_id: str) -> Letter | None:
        """Return a letter that was not seen yet; None if there is none of that id."""
        while page := await self.page(BROWSED_AT_ONCE):
            for letter in page:
                if letter.id == letter_id:
                    return letter
        return None

    async def drop(self, letters: Sequence[Letter]) -> int:
        """Forget letters of this pass."""
        before = self._browser.dropped
        for letter in letters:
            if tags := self._tags.get(letter.id):
                self._browser.drop(tags.pop())
        await self._browser.sync(BROWSED_AT_ONCE)
        return self._browser.dropped - before

    async def replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        """Publish jobs and drop their letters; a caller that is cancelled in between does not part the two."""
        answers: list[Published] = []
        with anyio.CancelScope(shield=True):
            answers += await run_detached(self._replay(batch), timeout=STEP_TIMEOUTS * self._browser.connection.timeout)
        return answers

    async def _replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        async with self._browser.settling:
            answers = await self._send([message_of(job) for _, job in batch])
            failpoint("rabbitmq.replay.stored")
            await self.drop(
                [one for (one, _), answer in zip(batch, answers, strict=True) if isinstance(answer, Stored)]
            )
            return answers

    def _is_copy(self, message: Browsed) -> bool:
        """Tell whether a letter was stored twice: its worker was killed before it settled the original."""
        original = message.properties.headers.get(b"tc-of")
        if not isinstance(original, bytes) or not original:
            return False
        # Two messages of another program may have one id: their bytes tell them apart.
        envelope, _, _ = split(message.properties, message.body)
        same = hashlib.blake2b(envelope, key=hashlib.blake2b(original).digest(), digest_size=16).digest()
        seen = same in self._originals
        self._originals.add(same)
        return seen


@asynccontextmanager
async def walk_letters(
    admin: AdminChannel, queue: str, send: Callable[[Sequence[RabbitMessage]], Awaitable[Sequence[Published]]]
) -> AsyncIterator[RabbitWalk]:
    """Begin a pass over the dead letters of a queue."""
    async with browse(admin, dead_queue(queue)) as browser:
        yield RabbitWalk(browser, queue, send)


async def browse_page(walk: RabbitWalk, limit: int, after: str | None) -> list[Letter]:
    """Return up to ``limit`` letters of a queue behind a letter, oldest first.

    Each page takes a pass over all of them, because the broker does not keep the order of returned messages.
    """
    found: list[Letter] = []
    while page := await walk.page(BROWSED_AT_ONCE):
        found += [letter for letter in page if after is None or letter.id > after]
        if len(found) > 2 * limit + EXTRA_LETTERS:
            found = nsmallest(limit, found, key=_id)
    return nsmallest(limit, found, key=_id)


def letter_of(message: Browsed, queue: str) -> Letter:
    """Read a message in a queue of dead letters, whatever program put it there.

    The id of a letter is ``<when>.<message>.<queue>``: ids sort by time, and name the queue of a letter that is gone.
    """
    properties = message.properties
    envelope, trail, reason = split(properties, message.body)
    when = natural(properties, b"tc-when") or 1_000_000 * natural(properties, DIED_AT)
    died = properties.headers.get(DIED)
    if not reason:
        reason = REASONS.get(died, b"moved here by the broker: " + died) if isinstance(died, bytes) else b"unknown"
    return Letter(
        id=f"{when:014x}.{_word(properties.message_id)}.{queue}",
        queue=queue,
        envelope=envelope,
        trail=trail,
        reason=reason.decode(errors="replace"),
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
