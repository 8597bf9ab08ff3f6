"""When and where to look for work: tokens, which say that a queue may have a job, and looks without one.

Each queue has a list with at most one token. A publish leaves the token; the worker that pops it looks for jobs, and
leaves the token for another one if there are more. A token that is lost with its popper costs no more than the time
after which each worker looks without one.

A few queues are looked at in turn. Of many, one question tells which ones have something to do, so an idle worker on a
thousand queues asks as seldom as one on ten. The question trusts the ids that a queue keeps of its jobs; a few queues
each time are looked at without it, because another program may have written into a stream. In a cluster no script sees
more than one queue, so all are looked at in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import cycle, islice
from typing import Final

import anyio

from taskcore.backends.redis.layout import LOOK, QueueKeys
from taskcore.connections.redis import Command, RedisLink
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["QueueChooser", "Wakeups"]

log = logger("taskcore.backends.redis")

QUEUES_UNASKED: Final = 5  #: queues that are looked at without asking first; and so many of more at each time
LONGEST_WAIT: Final = 2.5  #: seconds; an idle worker looks this often, because a token may be lost
SHORTEST_WAIT: Final = 0.01
FAILURES_LOGGED: Final = 5  #: failures in a row after which one line is logged
CLOSE_TIMEOUT: Final = 1.0  #: seconds for blocked commands to end


class QueueChooser:
    """Chooses the queues of one source at which to look.

    :param purpose: of the connection that asks.
    """

    def __init__(self, link: RedisLink, queues: Mapping[str, QueueKeys], lease: float, purpose: str) -> None:
        self._link = link
        self._purpose = purpose
        self._queues = tuple(queues)
        self._keys = tuple(key for part in zip(*(one.look for one in queues.values()), strict=True) for key in part)
        self._longest = min(LONGEST_WAIT, max(lease / 3, SHORTEST_WAIT))  # other sources' leases may be as short
        self._asks = len(self._queues) > QUEUES_UNASKED and not link.is_cluster
        self._turn = cycle(self._queues)
        self._turned = -math.inf  # when the last part of the turn was
        self._streams = math.inf  # how many queues had a stream at the last look
        self._next = -math.inf  # when to look again

    @property
    def pause(self) -> float:
        """How many seconds to wait for a token before looking again."""
        return max(self._next - anyio.current_time(), SHORTEST_WAIT)

    def note(self, seconds: float) -> None:
        """Note that a queue may have something to do in so many seconds."""
        self._next = min(self._next, anyio.current_time() + seconds)

    async def choose(self, woken: Collection[str], doubtful: Collection[str]) -> Sequence[str]:
        """Return the queues to look at now, in their order.

        :param woken: a token has come from these; if it has, the others have theirs.
        :param doubtful: something was lost on the way from these.
        """
        now = anyio.current_time()
        chosen = {*woken, *doubtful}
        if self._asks and woken and now < self._next:
            return self._in_order(chosen)
        self._next = now + self._longest
        if not self._asks:
            return self._queues
        if now - self._turned >= self._longest:
            self._turned = now
            chosen.update(islice(self._turn, QUEUES_UNASKED))
        found, soonest, streams = [], -1, self._streams
        with anyio.CancelScope(shield=True):  # a cancelled exchange would cost the connection
            [(found, soonest, streams)] = await self._link.run(self._purpose, LOOK, self._keys, ())
        if streams < self._streams:  # the first look; or some have disappeared, which a look at them reports
            chosen.update(self._queues)
        self._streams = streams
        chosen.update(self._queues[number - 1] for number in found)
        self.note(math.inf if soonest < 0 else soonest / 1000)
        return self._in_order(chosen)

    def _in_order(self, chosen: Collection[str]) -> Sequence[str]:
        return [queue for queue in self._queues if queue in chosen]


class Wakeups:
    """Wakes one source. On one server a single blocking command watches all queues; in a cluster, one each queue."""

    def __init__(self, link: RedisLink, queues: Mapping[str, QueueKeys], name: str) -> None:
        self._queues = {keys.wake: queue for queue, keys in queues.items()}
        keys = tuple(self._queues)
        groups = [(key,) for key in keys] if link.is_cluster else [keys]
        self._poppers = [_TokenPopper(link, group, f"wait {name} {number}") for number, group in enumerate(groups)]
        self._tasks = TaskSet("Redis source")

    def start(self) -> None:
        """Begin; a source is opened in one scope and closed in another, so there is no task group."""
        for popper in self._poppers:
            self._tasks.start(popper.run())

    async def close(self) -> None:
        """Stop, and put back tokens that may have been popped."""
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await self._tasks.cancel()
        for popper in self._poppers:
            await popper.close()

    async def wait(self, seconds: float) -> Collection[str]:
        """Wait until there may be a job, for so many seconds at most; return the queues that have said so."""
        wakeup, woken = anyio.Event(), set[str]()

        def wake(key: str | None) -> None:
            if key is not None:
                woken.add(self._queues[key])
            wakeup.set()

        for popper in self._poppers:
            popper.begin(wake, seconds)
        try:
            with anyio.move_on_after(seconds):
                await wakeup.wait()
        finally:
            for popper in self._poppers:
                popper.end()
        return woken


class _TokenPopper:
    """One blocking connection. Its command is never interrupted: a token that comes too late is put back."""

    def __init__(self, link: RedisLink, keys: Sequence[str], purpose: str) -> None:
        self._link = link
        self._keys = keys
        self._purpose = purpose
        self._wake: Callable[[str | None], None] | None = None
        self._seconds = 0.0
        self._begun = anyio.Event()
        self._failures = 0

    def begin(self, wake: Callable[[str | None], None], seconds: float) -> None:
        """Pop a token, and call this with its key; with None for an error that the source's own command meets too."""
        self._wake = wake
        self._seconds = seconds
        self._begun.set()

    def end(self) -> None:
        """Wake the source no more."""
        self._wake = None

    async def run(self) -> None:
        """Pop tokens while the source waits."""
        while True:
            await self._begun.wait()
            self._begun = anyio.Event()
            if self._wake is not None:
                await self._pop()

    async def _pop(self) -> None:
        """Pop a token and pass it on; pass an error on as well, which the source's own command will meet too.

        If only this command is forbidden, or only this connection is cut, the pauses grow, so the source does not spin.
        """
        command: Command = ("BLPOP", *self._keys, math.ceil(self._seconds * 1000) / 1000)
        timeout = self._seconds + self._link.options.timeout
        try:
            [found] = await self._link.call(self._purpose, self._keys[0], command, timeout=timeout)
        except BrokerUnavailable as error:
            if self._failures:
                await anyio.sleep(min(SHORTEST_WAIT * 2**self._failures, self._seconds))
            if self._failures == FAILURES_LOGGED:
                said = ("cannot receive wake-ups on %s: %s; polling instead", self._keys[0], error)
                log.error(*said)  # noqa: TRY400 - a traceback would add nothing
            self._failures += 1
            await self._pass_on(None)
            return
        self._failures = 0
        if found is not None:
            await self._pass_on(found[0].decode())

    async def _pass_on(self, key: str | None) -> None:
        """Wake the source; put the token back if it does not wait any more."""
        if self._wake is not None:
            self._wake(key)
        else:
            await self._put_back(self._keys if key is None else [key])

    async def close(self) -> None:
        """Disconnect; the connection may just have consumed a token, so put one back."""
        await self._link.hang_up(self._purpose)
        await self._put_back(self._keys)

    async def _put_back(self, keys: Sequence[str]) -> None:
        """Leave a token where there is none: one look too many costs little."""
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._link.options.timeout):
                lengths = await self._link.call("ask", keys[0], *(("LLEN", key) for key in keys))
                missing = [key for key, there in zip(keys, lengths, strict=True) if not there]
                if missing:
                    await self._link.call("ask", keys[0], *(("LPUSH", key, 1) for key in missing))
        except BrokerUnavailable:
            return  # without a server no worker waits for a token
