"""The names of all queues, in a queue of their own, because the protocol cannot list what there is."""

from __future__ import annotations

from taskcore.backend import Stored
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.browsing import browse
from taskcore.backends.rabbitmq.messages import Parcel
from taskcore.backends.rabbitmq.office import Office
from taskcore.backends.rabbitmq.publisher import Publisher, unavailable

__all__ = ["Registry"]


class Registry:
    """Names that somebody has written down. A queue may be gone although its name stands here."""

    def __init__(self, office: Office, publisher: Publisher) -> None:
        self._office = office
        self._publisher = publisher

    async def read(self) -> list[str]:
        """Every name, once."""
        return await self._look(without="")

    async def add(self, queue: str) -> None:
        """Write a name down, if it is not there.

        :raises BrokerUnavailable: it could not be written.
        """
        if queue in await self.read():
            return
        answers = await self._publisher.send([Parcel("", names.NAMES, {}, queue.encode())])
        if not isinstance(answers[0], Stored):
            failure = unavailable(answers)
            if failure is not None:
                raise failure

    async def remove(self, queue: str) -> None:
        """Cross a name out."""
        await self._look(without=queue)

    async def _look(self, *, without: str) -> list[str]:
        found: dict[str, None] = {}
        async with browse(self._office, names.NAMES) as reading:
            if reading is not None:
                async for sheet in reading.sheets():
                    name = sheet.body.decode(errors="replace")
                    if name in found or name == without:  # written down by two at the same time, or not wanted
                        reading.drop(sheet)
                    else:
                        found[name] = None
        return list(found)
