"""RedisBackend: publishing, and what a broker can do."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

from taskcore.backend import DUPLICATE, STORED, Features, Outgoing, Published, Refused, Uncertain
from taskcore.backends.redis.admin import RedisAdmin
from taskcore.backends.redis.layout import PUBLISH, Keys
from taskcore.backends.redis.source import RedisSource
from taskcore.connections.redis import CommandRefused, RedisLink, ReplyLost
from taskcore.connections.redis.diagnose import diagnose
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["RedisBackend"]

FEATURES = Features(
    broker="redis",
    durability="what its append-only file has; without one, what the last snapshot has",
    survives_worker=True,
    survives_broker=True,
    delay="emulated",
    delay_error=0.1,
    dedup="emulated",
    dedup_window=60.0,
    fencing="emulated",
    redeliveries="emulated",
    remove="emulated",
    locate="emulated",
    dead_letters="emulated",
    atomic_retry=True,
)

BATCH: Final = 500  #: jobs in one script: the server does nothing else for about a millisecond
BYTES: Final = 1024 * 1024  #: bytes in one script, for the same reason
FULL: Final = frozenset({"OOM", "MISCONF", "NOREPLICAS"})  #: the server is there, and has no room or no safety to offer


class RedisBackend:
    """Queues on Redis or Valkey, from version 7.0: one server, behind Sentinel, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`.
    :raises InvalidURL: it cannot be meant (TC103).
    """

    def __init__(self, url: str) -> None:
        self._link = RedisLink(url)
        self._options = self._link.options
        self._keys: dict[str, Keys] = {}
        self._registered: set[str] = set()

    @property
    def features(self) -> Features:
        """What Redis can do with our scripts."""
        return FEATURES

    @property
    def admin(self) -> RedisAdmin:
        """Counts, purging, removing, dead letters."""
        return RedisAdmin(self._link, self.keys_of, self._publish_some, self._registered)

    async def __aenter__(self) -> Self:
        """Connect.

        :raises BrokerUnavailable: it cannot be reached, is older than 7.0, or does not let us wait for replicas.
        """
        await self._link.__aenter__()
        if self._options.wait:  # or a job would be stored and its sender told the contrary
            try:
                await self._link.call("publish", "", ("WAIT", 0, 1))
            except BaseException:
                await self._link.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._link.close()

    async def diagnose(self) -> Diagnosis:
        """How the server is set up; of a cluster, every node.

        :raises BrokerUnavailable: it cannot be reached.
        """
        return await diagnose(self._link)

    def keys_of(self, queue: str) -> Keys:
        """The keys of a queue."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = Keys(self._options.prefix, queue)
        return keys

    # ── publishing ──

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs, a script for each queue and each 500 of them.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        if len(batch) == 1:
            return await self._publish_some(batch[0].queue, batch)
        answers: dict[int, Published] = {}
        for queue, indexes in _portions(batch):
            try:
                portion = await self._publish_some(queue, [batch[index] for index in indexes])
            except BrokerUnavailable as error:
                if not answers:
                    raise
                portion = [Refused(error.what)] * len(indexes)
            answers.update(zip(indexes, portion, strict=True))
        return [answers[index] for index in range(len(batch))]

    async def _publish_some(self, queue: str, jobs: Sequence[Outgoing], *, letter: str = "") -> list[Published]:
        """One script for jobs of one queue; with ``letter``, that dead letter goes in the same step."""
        plain = [job for job in jobs if job.delay <= 0 and not job.trail]
        arguments: list[Any] = [self._options.limit, letter, int(self._options.wait > 0), len(plain)]
        arguments += [job.id for job in plain]
        arguments += [job.envelope for job in plain]
        if len(plain) < len(jobs):
            return await self._publish_mixed(queue, jobs, plain, arguments)
        return await self._publish_ordered(queue, arguments, len(jobs))

    async def _publish_mixed(
        self, queue: str, jobs: Sequence[Outgoing], plain: Sequence[Outgoing], arguments: list[Any]
    ) -> list[Published]:
        """With later ones and such that have a trail among them, which the script wants behind the others."""
        others = [job for job in jobs if job.delay > 0 or job.trail]
        for job in others:
            arguments += (job.id, math.ceil(job.delay * 1000), job.trail, job.envelope)
        answers = await self._publish_ordered(queue, arguments, len(jobs))
        first, second = iter(answers[: len(plain)]), iter(answers[len(plain) :])
        return [next(second if job.delay > 0 or job.trail else first) for job in jobs]

    async def _publish_ordered(self, queue: str, arguments: list[Any], number: int) -> list[Published]:
        """Said again once if its reply was lost, which is safe because the ids are known by then."""
        keys = self.keys_of(queue)
        try:
            if queue not in self._registered:
                await self._register(queue)
            try:
                return await self._store(queue, keys, arguments)
            except ReplyLost as doubt:
                answers = await self._store_again(queue, keys, arguments)
                return [Uncertain(doubt.what)] * number if answers is None else answers
        except ReplyLost as error:
            return [Uncertain(error.what)] * number
        except CommandRefused as error:
            if error.kind not in FULL:
                raise
            return [Refused(f"{error.what} ({error.says})")] * number

    async def _store_again(self, queue: str, keys: Keys, arguments: list[Any]) -> list[Published] | None:
        """None if this fails too, however it does: the first try may have been carried out."""
        try:
            answers = await self._store(queue, keys, arguments)
        except BrokerUnavailable:
            return None
        return [STORED if answer is DUPLICATE else answer for answer in answers]  # by the first time, most likely

    async def _store(self, queue: str, keys: Keys, arguments: list[Any]) -> list[Published]:
        if not self._options.wait:
            [(signs, there)] = await self._link.run("publish", PUBLISH, keys.publish, arguments)
            replicas = 0
        else:
            waiting = ("WAIT", self._options.wait, math.ceil(self._options.wait_timeout * 1000))
            (signs, there), replicas = await self._link.run("publish", PUBLISH, keys.publish, arguments, waiting)
        if not there:
            await self._register(queue)
        if replicas < self._options.wait:
            short = Uncertain(
                f"the primary has it, but only {replicas} of {self._options.wait} replicas confirmed it "
                f"within {self._options.wait_timeout:g} s"
            )
            return [self._answer(queue, sign) if sign == _FULL else short for sign in signs]
        if signs == _STORED * len(signs):
            return [STORED] * len(signs)
        return [self._answer(queue, sign) for sign in signs]

    def _answer(self, queue: str, sign: int) -> Published:
        if sign == _FULL:
            return Refused(
                f'queue "{queue}" is full: it holds {self._options.limit:,} jobs and dead letters, its limit'
            )
        return STORED if sign == _STORED[0] else DUPLICATE

    async def _register(self, queue: str) -> None:
        """Queues are listed before they hold anything, so that none is ever forgotten."""
        name = f"{self._options.prefix}:queues"
        await self._link.call("publish", name, ("SADD", name, queue))
        self._registered.add(queue)

    # ── consuming ──

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[RedisSource]:
        """A source on these queues, earlier queues first."""
        return self._consuming(queues, lease)

    @asynccontextmanager
    async def _consuming(self, queues: Sequence[str], lease: float) -> AsyncIterator[RedisSource]:
        source = RedisSource(self._link, {queue: self.keys_of(queue) for queue in queues}, lease, secrets.token_hex(5))
        async with source:
            yield source


_STORED: Final = b"S"
_FULL: Final = ord("F")


def _portions(batch: Sequence[Outgoing]) -> list[tuple[str, list[int]]]:
    """Positions in the batch, by queue, as many at a time as one script may have; no id is twice in one of them."""
    portions: list[tuple[str, list[int]]] = []
    filling: dict[str, tuple[list[int], set[str]]] = {}
    sizes: dict[str, int] = {}
    for index, job in enumerate(batch):
        queue, size = job.queue, len(job.envelope)
        portion, ids = filling.get(queue, (None, None))
        if portion is None or ids is None or len(portion) >= BATCH or sizes[queue] + size > BYTES or job.id in ids:
            portion, ids = filling[queue] = [], set()
            portions.append((queue, portion))
            sizes[queue] = 0
        portion.append(index)
        ids.add(job.id)
        sizes[queue] += size
    return portions
