"""What only some brokers can: a protocol for each, which an adapter has or has not (docs/adr/0011)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

__all__ = ["OpensQueues", "Peeks", "WaitingJob"]


@runtime_checkable
class OpensQueues(Protocol):
    """A broker on which the first jobs of a new queue wait, see ``Features.new_queue``."""

    def open_queues(self, queues: Sequence[str], waits: Callable[[float], None]) -> None:
        """Begin to open these queues, in the background; what fails is tried again by the first publish.

        :param waits: called in the task of a publish that has to wait for a new queue, with the seconds that this adds
            to its time.
        """
        ...


class WaitingJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that waits, as the broker keeps it; ``due`` in seconds from now, None if it is ready."""

    envelope: bytes
    trail: bytes = b""
    due: float | None = None


@runtime_checkable
class Peeks(Protocol):
    """An admin whose broker shows jobs that wait without taking them, see ``Features.peek``."""

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next, at most ``limit``; they stay where they are."""
        ...
