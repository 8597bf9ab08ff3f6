"""Waiting: until one of some queues may have something, without asking all the time and without taking anything.

Each queue has a list with at most one token in it. Publishing leaves the token; whoever pops it looks what there is,
and leaves it for the next if there is more. A token that is lost with its popper costs at most ``LONGEST``: nobody
waits longer without looking by himself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import anyio

from taskcore.backends.redis.layout import Keys
from taskcore.connections.redis import Command, RedisLink
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["Waiting"]

log = logger("taskcore.backends.redis")

LONGEST: Final = 2.5  #: seconds; an idle worker looks this often whether it was forgotten
SHORTEST: Final = 0.01
LOUD: Final = 5  #: failures in a row after which it is told


class Waiting:
    """One who waits. On one server a single blocking command watches all queues; in a cluster, one for each queue."""

    def __init__(self, link: RedisLink, queues: Mapping[str, Keys], lease: float, name: str) -> None:
        self._link = link
        self._longest = min(LONGEST, max(lease / 3, SHORTEST))  # others' short leases are to be noticed in time, too
        keys = [one.wake for one in queues.values()]
        groups = [[key] for key in keys] if link.is_cluster else [keys]
        self._watches = [_Watch(link, group, f"wait {name} {number}") for number, group in enumerate(groups)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        # Tasks and no task group: a source is opened in one scope and closed in another, as its owner pleases.
        self._tasks = [asyncio.create_task(watch.run()) for watch in self._watches]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for watch in self._watches:
            await watch.close()

    async def wait(self, seconds: float) -> None:
        """Until there may be something, or so many seconds are over."""
        seconds = max(min(seconds, self._longest), SHORTEST)
        news = anyio.Event()
        for watch in self._watches:
            watch.begin(news, seconds)
        try:
            with anyio.move_on_after(seconds):
                await news.wait()
        finally:
            for watch in self._watches:
                watch.end()


class _Watch:
    """One blocking connection. It is never cut off in the middle: what it brings too late goes back."""

    def __init__(self, link: RedisLink, keys: Sequence[str], purpose: str) -> None:
        self._link = link
        self._keys = keys
        self._purpose = purpose
        self._news: anyio.Event | None = None
        self._seconds = 0.0
        self._begun = anyio.Event()
        self._failures = 0

    def begin(self, news: anyio.Event, seconds: float) -> None:
        self._news = news
        self._seconds = seconds
        self._begun.set()

    def end(self) -> None:
        self._news = None

    async def run(self) -> None:
        """Whenever somebody waits, wait with him."""
        while True:
            await self._begun.wait()
            self._begun = anyio.Event()
            if self._news is not None and await self._pop():
                await self._tell()

    async def _pop(self) -> bool:
        """Whether there was a token, or something is the matter: whoever waits tries for himself, and sees what.

        If he sees nothing (only this command is forbidden, only this connection is cut), he does not try all the time.
        """
        command: Command = ("BLPOP", *self._keys, math.ceil(self._seconds * 1000) / 1000)
        patience = self._seconds + self._link.options.timeout
        try:
            [found] = await self._link.call(self._purpose, self._keys[0], command, patience=patience)
        except BrokerUnavailable as error:
            if self._failures:
                await anyio.sleep(min(SHORTEST * 2**self._failures, self._seconds))
            if self._failures == LOUD:
                told = ("nobody can be woken on %s: %s; looking now and then instead", self._keys[0], error)
                log.error(*told)  # noqa: TRY400 - where this line is says nothing
            self._failures += 1
            return True
        self._failures = 0
        return found is not None

    async def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
        else:
            await self._give_back()

    async def close(self) -> None:
        """Whoever goes may have popped a token just then; so one is left for the others."""
        await self._link.hang_up(self._purpose)
        await self._give_back()

    async def _give_back(self) -> None:
        for key in self._keys:
            try:
                with anyio.CancelScope(shield=True), anyio.move_on_after(self._link.options.timeout):
                    [there] = await self._link.call("ask", key, ("LLEN", key))
                    if not there:
                        await self._link.call("ask", key, ("LPUSH", key, 1))
            except BrokerUnavailable:
                return  # then nobody waits there at the moment
