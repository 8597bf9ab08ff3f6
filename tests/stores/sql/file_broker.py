"""A broker in a folder, for one worker process at a time: what it handed out survives the death of that process.

    jobs       one line for each job that was published          taken      one line for each hand-out
    settled    one line for each job that is over

The next process gets every job that is not settled, with the number of times it was handed out before: the death of a
process ends its leases.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from taskcore.backend import Delivery, Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.lifecycle import Ack, Verdict

__all__ = ["FileBroker"]


class FileBroker(MemoryBackend):
    """The in-memory broker, and a diary of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._taken: Counter[str] = Counter()
        self._ids: dict[bytes, str] = {}

    async def __aenter__(self) -> Any:
        """Publish again what is not over."""
        await super().__aenter__()
        self._taken.update(self._lines("taken"))
        over = set(self._lines("settled"))
        for line in self._lines("jobs"):
            queue, job_id, envelope = json.loads(line)
            if job_id not in over:
                await super().publish([self._known(Outgoing(queue, job_id, base64.b64decode(envelope)))])
        return self

    async def publish(self, batch: Sequence[Outgoing]) -> Any:
        """Store in the diary first."""
        for out in batch:
            self._note("jobs", json.dumps([out.queue, out.id, base64.b64encode(out.envelope).decode()]))
        return await super().publish([self._known(out) for out in batch])

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, lease: float) -> AsyncIterator[Any]:
        """Open a source that records what it hands out and what is over."""
        async with super().consume(queues, lease=lease) as source:
            receive, settle = source.receive, source.settle

            async def noted_receive(limit: int) -> list[Delivery]:
                return [self._noted(delivery) for delivery in await receive(limit)]

            async def noted_settle(batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
                for delivery, verdict in batch:
                    if isinstance(verdict, Ack):
                        self._note("settled", self._ids[delivery.envelope])
                    else:
                        self._note("others", repr(verdict))
                return await settle(batch)

            source.receive, source.settle = noted_receive, noted_settle
            yield source

    def _known(self, out: Outgoing) -> Outgoing:
        self._ids[out.envelope] = out.id
        return out

    def _noted(self, delivery: Delivery) -> Delivery:
        job_id = self._ids[delivery.envelope]
        before = self._taken[job_id]
        self._taken[job_id] += 1
        self._note("taken", job_id)
        return msgspec.structs.replace(delivery, redeliveries=before)

    def _lines(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []

    def _note(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
