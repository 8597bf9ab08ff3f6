"""KeyKeeper: renews the keys of running jobs, beside the leases: a store that is slow must not let leases end."""

from __future__ import annotations

import math

import anyio
import anyio.abc

from taskcore.errors import BrokerUnavailable
from taskcore.records import Records
from taskcore.toolkit.logging import logger
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.outages import Outage

__all__ = ["KeyKeeper"]

log = logger("taskcore.worker")


class KeyKeeper:
    """Keeps keys held for as long as the leases are, and counts the starts that were lost; a service of a worker.

    :param outage: notes when the store cannot be reached, and when it can again.
    """

    def __init__(self, keeper: LeaseKeeper, records: Records, outage: Outage) -> None:
        self._keeper = keeper
        self._records = records
        self._outage = outage

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Renew until cancelled."""
        task_status.started()
        keeper, pause = self._keeper, self._keeper.lease / 3
        while True:
            if not keeper.outlived:
                keeper.keys_due = math.inf
                await keeper.until_work()
            keeper.keys_due = anyio.current_time() + pause
            await anyio.sleep(pause)
            try:
                await self._renew()
            except BrokerUnavailable as error:
                await self._outage.failed(error)
            except Exception:
                log.exception("some keys could not be renewed; trying again")
            else:
                self._outage.recovered()

    async def _renew(self) -> None:
        keeper, asked = self._keeper, anyio.current_time()
        await self._records.keys.renew_many(keeper.held_keys(), keeper.clock() + keeper.lease)
        while keeper.outlived:
            await self._records.markers.outlive(keeper.outlived[-1])
            keeper.outlived.pop()
        keeper.renewed = asked
