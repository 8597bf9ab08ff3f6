"""Making what is missing on the broker, and finding out that what is there is something else.

A queue exists before it is *open*: open means that jobs reach it, because it is bound. In between lie some seconds
(``settle``): a node that is killed within the first moments of a new quorum queue has forgotten, after its restart,
that the queue was its own, and every confirmed job in it. So nobody binds a queue that he has known for less than that
time; a job for a queue that is not open is returned to its sender, surely not stored, and the sender opens it.

Opening is work of its own: whoever waits for it may give up and come again, and finds it further on. An outage begins
the time anew, because a node that comes back makes the queues anew that it has forgotten.

Nothing that exists is ever changed. A queue with other arguments than ours is reported with the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.office import Office
from taskcore.backends.rabbitmq.options import Options
from taskcore.connections.amqp.transport import Wire
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["Topology"]

log = logger("taskcore.rabbitmq")

Announce = Callable[[str], Awaitable[None]]


class Topology:
    """What one backend knows of the broker's exchanges and queues."""

    def __init__(self, office: Office, options: Options) -> None:
        self._office = office
        self._options = options
        # when we first saw a queue, or made it, by the loop's clock; and through which connection
        self._known: dict[str, tuple[float, Wire | None]] = {}
        self._open: dict[str, float] = {}  # and since when
        self._levels_known: float | None = None
        self._doubted = False  # whether all levels are made, although whoever made them said so
        self._making = asyncio.Lock()
        self._opening: dict[str, asyncio.Task[None]] = {}

    async def lay(self) -> None:
        """What every app of the virtual host needs: exchanges, and the queues for names and for the lost.

        :raises BrokerUnavailable: it cannot be reached, or something else has one of our names.
        """
        await self._exchange(names.JOBS, "direct")
        await self._exchange(names.SCHEDULE, "direct")
        await self._exchange(names.LOST, "fanout")
        await self._exchange(names.DUE, "direct", {"alternate-exchange": names.LOST})
        await self._queue(names.NAMES, names.shared())
        await self._queue(names.LOST, names.of_lost())
        await self._bind(names.LOST, names.LOST, "")

    async def lay_again(self) -> None:
        """Somebody has taken it away: what we knew is not true any more."""
        log.warning("the exchanges of this virtual host are gone: was it reset? They are made again")
        self._known.clear()
        self._open.clear()
        self._levels_known = None
        await self.lay()

    async def make(self, queue: str) -> None:
        """A queue and its dead letters, not open yet; and a look whether they are as they should be.

        :raises BrokerUnavailable: it exists with other arguments; the text has the difference.
        """
        async with self._making:
            await self._make_levels()
            made = await self._queue(names.dead_letters(queue), names.shared())
            made |= await self._queue(names.jobs(queue), names.of_jobs(queue, self._options))
            if made:
                self._open.pop(queue, None)
            if made or queue not in self._known:
                self._known[queue] = asyncio.get_running_loop().time(), self._office.line.wire

    async def open(self, queue: str, announce: Announce) -> None:
        """Let jobs in, as soon as the queue is old enough. Whoever gives up waiting for it does not stop it.

        :param announce: writes a queue's name where other apps find it.
        """
        if queue in self._open:
            return
        opening = self._opening.get(queue)
        if opening is None:
            opening = self._opening[queue] = asyncio.ensure_future(self._let_in(queue, announce))
            opening.add_done_callback(lambda done: self._opened(queue, done))
        await asyncio.wait({opening})
        if opening.cancelled():
            raise BrokerUnavailable(f"queue {queue} was not opened: its app was closed meanwhile", fix="open it again")
        opening.result()

    async def _let_in(self, queue: str, announce: Announce) -> None:
        while (rest := await self._youth(queue)) > 0:  # noqa: ASYNC110 - it is only a matter of age
            await asyncio.sleep(rest)
        await announce(queue)
        await self._bind(names.jobs(queue), names.DUE, queue)
        await self._bind_exchange(names.DELAY, names.SCHEDULE, queue)
        await self._bind(names.jobs(queue), names.JOBS, queue)  # last: whoever finds this one finds the others
        self._open[queue] = asyncio.get_running_loop().time()

    async def _youth(self, queue: str) -> float:
        """Seconds until a queue is old enough, made or looked at anew if our connection was lost meanwhile."""
        _, wire = self._known.get(queue, (0.0, None))
        if wire is None or wire is not self._office.line.wire:
            self._known.pop(queue, None)
            await self.make(queue)
        born = max(self._known[queue][0], self._levels_known or 0.0)
        return born + self._options.settle - asyncio.get_running_loop().time()

    def _opened(self, queue: str, done: asyncio.Task[None]) -> None:
        del self._opening[queue]
        if not done.cancelled() and done.exception() is not None:
            log.debug("queue %s could not be opened; its next sender tries again: %s", queue, done.exception())

    async def close(self) -> None:
        """Stop opening queues."""
        for opening in tuple(self._opening.values()):
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)

    def knows(self, queue: str) -> bool:
        """Whether it was made or looked at before."""
        return queue in self._known

    def shut(self, queue: str, sent: float) -> None:
        """It turned out that it is not there, or not open; or that a level is not.

        :param sent: when the job was sent that came back; the queue may have been opened meanwhile.
        """
        opened = self._open.get(queue)
        if opened is not None and opened > sent:
            return
        if opened is not None:  # then somebody has deleted something, perhaps a level
            self._doubted, self._levels_known = True, None
        self._forget(queue)

    def _forget(self, queue: str) -> None:
        self._open.pop(queue, None)
        if queue not in self._opening:  # or its age would begin anew with each job that comes back meanwhile
            self._known.pop(queue, None)

    async def delete(self, queue: str) -> None:
        """Forget a queue and its dead letters."""
        self._forget(queue)

        async def question(channel: Any) -> None:
            await channel.queue_delete(names.jobs(queue))
            await channel.queue_delete(names.dead_letters(queue))
            await channel.exchange_unbind(names.DELAY, names.SCHEDULE, queue)

        await self._office.ask(f"deleting queue {queue}", question)

    async def _make_levels(self) -> None:
        if self._levels_known is not None:
            return
        made = self._doubted or not await self._is_exchange(names.MADE)
        if made:
            await self._exchange(names.DELAY, "headers")
            for number in range(names.LEVELS):
                await self._exchange(names.level(number), "headers")
                await self._queue(names.level(number), names.of_level(number))
                await self._lead_on(names.level(number), names.nexts_of(number))
            await self._lead_on(names.DELAY, names.nexts_of(None))
            await self._exchange(names.MADE, "fanout")
            self._doubted = False
        self._levels_known = asyncio.get_running_loop().time() if made else 0.0

    async def _lead_on(self, exchange: str, nexts: dict[str, dict[str, Any]]) -> None:
        for place, headers in nexts.items():
            bind = self._bind_exchange if place == names.DUE else self._bind
            await bind(place, exchange, "", headers)

    # ── one thing at a time ──

    async def _is_exchange(self, name: str) -> bool:
        async def question(channel: Any) -> bool:
            try:
                await _look(channel, name)
            except ChannelNotFoundEntity:
                return False
            return True

        return await self._office.ask(f"looking at exchange {name}", question)

    async def _exchange(self, name: str, kind: str, arguments: dict[str, Any] | None = None) -> None:
        async def question(channel: Any) -> None:
            await channel.exchange_declare(name, exchange_type=kind, durable=True, arguments=arguments)

        try:
            await self._office.ask(f"making exchange {name}", question)
        except BrokerUnavailable as error:
            await self._not_as_wanted(error, f"exchange {name}", lambda channel: _look(channel, name))

    async def _queue(self, name: str, arguments: dict[str, Any]) -> bool:
        """Make a queue if it is not there; True if it was not."""
        found = await self._office.count(name)

        async def question(channel: Any) -> None:
            # Declaring what is there changes nothing: it compares the arguments, and is refused if they differ.
            await channel.queue_declare(name, durable=True, arguments=arguments)

        try:
            await self._office.ask(f"making queue {name}", question)
        except BrokerUnavailable as error:
            await self._not_as_wanted(error, f"queue {name}", lambda channel: channel.queue_declare(name, passive=True))
        return found is None

    async def _not_as_wanted(
        self, error: BrokerUnavailable, what: str, look: Callable[[Any], Awaitable[object]]
    ) -> None:
        """Declaring was refused: because it is there and different, or because we may use it and not make it."""
        cause = error.__cause__
        if isinstance(cause, ChannelPreconditionFailed):
            raise BrokerUnavailable(
                f"{what} exists with other arguments than this app's URL asks for",
                facts=[str(cause)],
                fix="use the options that it was made with, or delete it, or give this app a virtual host of its own",
            ) from cause
        if not isinstance(cause, ChannelAccessRefused):
            raise error
        try:
            await self._office.ask(f"looking for {what}", look)
        except BrokerUnavailable as second:
            if isinstance(second.__cause__, ChannelNotFoundEntity):
                raise BrokerUnavailable(
                    f"{what} does not exist, and this user may not make it",
                    facts=[str(cause)],
                    fix="give the user permission to configure it, or start an app with that permission once",
                ) from cause
            raise

    async def _bind(self, queue: str, exchange: str, key: str, headers: dict[str, Any] | None = None) -> None:
        async def question(channel: Any) -> None:
            await channel.queue_bind(queue, exchange, key, arguments=headers)

        await self._allowed(f"binding {queue} to {exchange}", question)

    async def _bind_exchange(
        self, destination: str, source: str, key: str, headers: dict[str, Any] | None = None
    ) -> None:
        async def question(channel: Any) -> None:
            await channel.exchange_bind(destination, source, key, arguments=headers)

        await self._allowed(f"binding {destination} to {source}", question)

    async def _allowed(self, what: str, question: Callable[[Any], Awaitable[None]]) -> None:
        """Bind, if we may; somebody who may will do it otherwise."""
        try:
            await self._office.ask(what, question)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ChannelAccessRefused):
                raise
            log.debug("%s is left to others: %s", what, error.__cause__)


async def _look(channel: Any, name: str) -> None:
    await channel.exchange_declare(name, passive=True)
