"""A client with middleware around each send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from taskcore.client.client import Client
from taskcore.middleware import Middleware, around_send
from taskcore.task import Call, Job

__all__ = ["ClientWithMiddleware"]

R = TypeVar("R")


class ClientWithMiddleware(Client):
    """Sends calls through middleware; an app without middleware uses the plain client and pays nothing."""

    def use(self, middleware: Sequence[Middleware]) -> None:
        """Put middleware around each send from now on."""
        self._around = around_send(middleware, self._send_inside)

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call."""
        [job] = await self._around([call])
        return job

    async def send_many(self, calls: Sequence[Call[R]]) -> list[Job[R]]:
        """Send calls; one job for each, in order."""
        return await self._around(calls)

    async def _send_inside(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        if len(calls) == 1:  # concurrent single sends share a batch
            return [await super().send(calls[0])]
        return await super().send_many(calls)
