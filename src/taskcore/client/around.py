"""A client with middleware around each send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from taskcore.client.client import Client
from taskcore.components import Components
from taskcore.middleware import any_overrides, around_send
from taskcore.task import Call, Job
from taskcore.toolkit.app_loop import AppLoop

__all__ = ["ClientWithMiddleware", "make_client"]

R = TypeVar("R")


def make_client(
    components: Components, *, timeout: float, payload_limit: int, source: str | None, app_loop: AppLoop
) -> Client:
    """Make a client, with middleware around its sends if some is concerned."""
    make = ClientWithMiddleware if any_overrides(components.middleware, "send") else Client
    return make(components, timeout=timeout, payload_limit=payload_limit, source=source, app_loop=app_loop)


class ClientWithMiddleware(Client):
    """Sends calls through middleware."""

    def __init__(
        self, components: Components, *, timeout: float, payload_limit: int, source: str | None, app_loop: AppLoop
    ) -> None:
        super().__init__(components, timeout=timeout, payload_limit=payload_limit, source=source, app_loop=app_loop)
        self._around = around_send(components.middleware, self._send_inside)

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
