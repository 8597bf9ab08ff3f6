"""SqliteBackend: the verbs of the seam on one file, for all processes of one machine. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Self

from taskcore.backend import Features, Outgoing, Published, Refused, Uncertain
from taskcore.backends.sql.messages import FEATURES as SQL_FEATURES
from taskcore.backends.sql.messages import KnownCounts, publish_parts
from taskcore.backends.sql.sqlite import ledger
from taskcore.backends.sql.sqlite.admin import SqliteAdmin
from taskcore.backends.sql.sqlite.consumer import SqliteQueues
from taskcore.backends.sql.sqlite.source import SqliteExtender, SqliteSource
from taskcore.connections.sqlite.address import sqlite_address
from taskcore.connections.sqlite.diagnose import diagnose
from taskcore.connections.sqlite.file import SqliteUncertain
from taskcore.connections.sqlite.works import ValueRefused
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["SqliteBackend"]

FEATURES: Final = SQL_FEATURES(
    broker="sqlite",
    durability="a committed job survives a killed process; with synchronous=full, the default, a power cut, too",
    delay_error=0.1,
)


class SqliteBackend:
    """Queues in one SQLite file.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?synchronous=`` and ``?timeout=``.
    :raises InvalidURL: a URL with a typo or an unknown option (TC103).
    """

    silence: float | None = None  #: see :class:`taskcore.keeping.seam.LendsExtenders`

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._address = self.database = sqlite_address(url)  #: see :class:`taskcore.joint_ends.InDatabase`
        self._file = SqliteQueues(self._address)
        self._counts = KnownCounts()

    @property
    def features(self) -> Features:
        """What SQLite can do with our tables."""
        return FEATURES

    @property
    def admin(self) -> SqliteAdmin:
        """Counts, purging, removing, dead letters."""
        return SqliteAdmin(self._file, self._counts)

    async def __aenter__(self) -> Self:
        """Open the file, and make it and the tables if they are not there.

        :raises BrokerUnavailable: it cannot be opened.
        """
        await self._file.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the file."""
        await self._file.close()

    async def diagnose(self) -> Diagnosis:
        """See :class:`taskcore.toolkit.diagnostics.HasDiagnostics`."""
        return await diagnose(self._address)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        return await publish_parts(batch, self._publish_part)

    async def _publish_part(self, part: Sequence[Outgoing]) -> Sequence[Published]:
        try:
            answers = await self._file.do(lambda connection, now: ledger.publish(connection, now, part))
        except SqliteUncertain as error:
            return [Uncertain(error.what)] * len(part)
        except ValueRefused as error:
            if len(part) == 1:
                return [Refused(error.what)]
            return [answer for job in part for answer in await self._publish_part([job])]
        self._file.wake()
        return answers

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[SqliteSource]:
        """Return a source on these queues, earlier queues first."""
        return _consuming(SqliteSource(self._file, queues, lease))

    def extender(self, *, lease: float) -> SqliteExtender:
        """Return what extends leases of this file's jobs from another thread or process."""
        return SqliteExtender(self._address, lease)


@asynccontextmanager
async def _consuming(source: SqliteSource) -> AsyncIterator[SqliteSource]:
    yield source
