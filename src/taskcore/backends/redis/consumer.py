"""Waiting for work: until one of some queues may have a job, without polling and without taking anything.

Each queue has a list with at most one token. A publish leaves the token; the worker that pops it looks for jobs, and
leaves the token for another one if there are more. A token that is lost with its popper costs at most ``LONGEST_WAIT``:
no worker waits longer without looking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import anyio

from taskcore.backends.redis.layout import QueueKeys
from taskcore.connections.redis import Command, RedisLink
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["Wakeups"]

log = logger("taskcore.backends.redis")

LONGEST_WAIT: Final = 2.5  #: seconds; an idle worker looks this often in case a token was lost
SHORTEST_WAIT: Final = 0.01
FAILURES_LOGGED: Final = 5  #: failures in a row after which one line is logged
CLOSE_TIMEOUT: Final = 1.0  #: seconds for blocked commands to end


class Wakeups:
    """Wakes one source. On one server a single blocking command watches all queues; in a cluster, one each queue."""

    def __init__(self, link: RedisLink, queues: Mapping[str, QueueKeys], lease: float, name: str) -> None:
        self._link = link
        self._longest = min(LONGEST_WAIT, max(lease / 3, SHORTEST_WAIT))  # other sources' leases may be as short
        keys = [one.wake for one in queues.values()]
        groups = [[key] for key in keys] if link.is_cluster else [keys]
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

    async def wait(self, seconds: float) -> None:
        """Wait until there may be a job, for so many seconds at most."""
        seconds = max(min(seconds, self._longest), SHORTEST_WAIT)
        wakeup = anyio.Event()
        for popper in self._poppers:
            popper.begin(wakeup, seconds)
        try:
            with anyio.move_on_after(seconds):
                await wakeup.wait()
        finally:
            for popper in self._poppers:
                popper.end()


class _TokenPopper:
    """One blocking connection. Its command is never interrupted: a token that comes too late is put back."""

    def __init__(self, link: RedisLink, keys: Sequence[str], purpose: str) -> None:
        self._link = link
        self._keys = keys
        self._purpose = purpose
        self._wakeup: anyio.Event | None = None
        self._seconds = 0.0
        self._begun = anyio.Event()
        self._failures = 0

    def begin(self, wakeup: anyio.Event, seconds: float) -> None:
        self._wakeup = wakeup
        self._seconds = seconds
        self._begun.set()

    def end(self) -> None:
        self._wakeup = None

    async def run(self) -> None:
        """Pop tokens while the source waits."""
        while True:
            await self._begun.wait()
            self._begun = anyio.Event()
            if self._wakeup is not None and await self._pop():
                await self._pass_on()

    async def _pop(self) -> bool:
        """Return whether the source should look: there was a token, or an error that its own command will meet too.

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
            return True
        self._failures = 0
        return found is not None

    async def _pass_on(self) -> None:
        """Wake the source; put the token back if it does not wait any more."""
        if self._wakeup is not None:
            self._wakeup.set()
        else:
            await self._put_back()

    async def close(self) -> None:
        """Disconnect; the connection may just have consumed a token, so put one back."""
        await self._link.hang_up(self._purpose)
        await self._put_back()

    async def _put_back(self) -> None:
        for key in self._keys:
            try:
                with anyio.CancelScope(shield=True), anyio.move_on_after(self._link.options.timeout):
                    [there] = await self._link.call("ask", key, ("LLEN", key))
                    if not there:
                        await self._link.call("ask", key, ("LPUSH", key, 1))
            except BrokerUnavailable:
                return  # without a server no worker waits for a token
