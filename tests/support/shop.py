"""Two programs with one task that has an idempotency key, on one broker and one store."""

from __future__ import annotations

import anyio

from taskcore import App, Retry, current
from taskcore.records.keys import decode_key_record
from tests.support.faulty import FaultyBackend, FaultyStore, Log
from tests.support.virtual import clock

__all__ = ["HOUR", "LEASE", "Shop"]

LEASE = 60.0
HOUR = 3600.0


class Shop:
    """Two programs with one task that has a key, on one broker and one store."""

    def __init__(self, **options) -> None:
        self.backend, self.store = FaultyBackend(), FaultyStore()
        self.runs: Log = Log()
        self.seconds = {"one": 1.0, "two": 1.0}
        self.one, self.two = self.program("one", options), self.program("two", options)
        self.charge = self.one.tasks["charge"]

    def program(self, name, options):
        """Make a program whose task returns which program ran it, and how often that was."""
        app = App(self.backend, store=self.store, clock=clock, lease=LEASE, keep_result=HOUR, retry=Retry(attempts=1))

        @app.task(name="charge", **{"key": "order", "key_window": 24 * HOUR, **options})
        async def charge(order: str, amount: int = 1) -> str:
            self.runs.append((name, order, current().fence))
            await anyio.sleep(self.seconds[name])
            if amount < 0:
                raise ValueError("no money")
            return f"run {len(self.runs)} by {name}"

        return app

    def claims(self):
        """Return the claims in the store."""
        records = [record for key, (record, _) in self.store._records.items() if key.startswith("key/")]
        return [decode_key_record(record.value) for record in records]
