"""Plays of faults on RabbitMQ: as those on Redis, with a store beside the broker."""

from __future__ import annotations

from pathlib import Path

import anyio

from taskcore.adapters import open_backend, open_store
from tests.support.redis_play import Play

__all__ = ["RabbitPlay"]


class RabbitPlay(Play):
    """A play whose queue is on RabbitMQ; results and start markers are in a SQLite file."""

    def __init__(self, url: str, folder: Path, options: str = "min_queue_age=0.1&timeout=3") -> None:
        super().__init__(f"{url}?{options}", store=f"sqlite:///{folder / 'records.db'}")

    async def quiet(self, url: str | None = None, *, within: float = 30.0) -> None:
        """Wait until every confirmed job has ended: jobs that others hold, or that are scheduled, cannot be counted."""
        missing: set[str] = set()
        async with open_backend(url or self.url) as backend, open_store(self.store or "") as store:
            with anyio.move_on_after(within):
                while True:
                    missing = {entry.job for entry in self.merged().entries if entry.kind == "ok"}
                    missing = {job for job in missing if await store.get(f"job/{job}") is None}
                    if not missing and not (await backend.admin.stats([self.queue]))[0].ready:
                        return
                    await anyio.sleep(0.05)
        raise TimeoutError(f"after {within:g} s there are still {len(missing)} jobs without an outcome: {missing}")
