"""ServerSet: several servers that start and stop together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

__all__ = ["ServerSet"]


class ServerSet(ABC):
    """Servers that form one broker; a start that fails leaves none of them running."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the servers and wait until they are ready as a set.

        :raises BrokerUnavailable: they are not ready in time.
        """
        async with AsyncExitStack() as exits:
            await self._start(exits)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(kind, error, traceback)

    @abstractmethod
    async def _start(self, exits: AsyncExitStack) -> None:
        """Enter each server on the stack and wait until the set is ready."""
