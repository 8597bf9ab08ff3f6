"""Publishing: one script for the jobs of a queue, answered job by job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from taskcore.backend import DUPLICATE, STORED, Outgoing, Published, Refused, Uncertain
from taskcore.backends.redis.layout import PUBLISH, QueueKeys
from taskcore.connections.redis import CommandRefused, RedisLink, ReplyLost
from taskcore.errors import BrokerUnavailable

__all__ = ["RedisPublisher"]

SCRIPT_JOBS: Final = 500  #: jobs in one script: the server does nothing else for about a millisecond
SCRIPT_BYTES: Final = 1024 * 1024  #: bytes in one script, for the same reason
NO_ROOM: Final = frozenset({"OOM", "MISCONF", "NOREPLICAS"})  #: the server runs, but cannot store safely
TOO_LARGE: Final = "invalid bulk length"  #: the server's text about what is above its proto-max-bulk-len
STORED_SIGN: Final = b"S"
FULL_SIGN: Final = ord("F")
NO_ID_SIGN: Final = ord("X")


class RedisPublisher:
    """Stores jobs, and knows which queues are listed."""

    def __init__(self, link: RedisLink) -> None:
        self.queues_key = f"{link.options.prefix}:queues"
        self._link = link
        self._options = link.options
        self._keys: dict[str, QueueKeys] = {}
        self._registered: set[str] = set()

    def keys_of(self, queue: str) -> QueueKeys:
        """Return the keys of a queue."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = QueueKeys(self._options.prefix, queue)
        return keys

    async def publish(self, batch: Sequence[Outgoing], letters: Sequence[str] = ()) -> Sequence[Published]:
        """Store the jobs, a script for each queue and each 500 of them.

        :param letters: for each job a dead letter of its queue, deleted in the same step; "" for none.
        :raises BrokerUnavailable: surely none of them was stored.
        """
        if len(batch) == 1:
            return await self._publish_in(batch[0].queue, batch, letters)
        answers: dict[int, Published] = {}
        for queue, indexes in _portions(batch):
            try:
                replayed = [letters[index] for index in indexes] if letters else ()
                portion = await self._publish_in(queue, [batch[index] for index in indexes], replayed)
            except BrokerUnavailable as error:
                if not answers:
                    raise
                portion = [Refused(error.what)] * len(indexes)
            answers.update(zip(indexes, portion, strict=True))
        return [answers[index] for index in range(len(batch))]

    async def _publish_in(self, queue: str, jobs: Sequence[Outgoing], letters: Sequence[str]) -> list[Published]:
        """Store jobs of one queue by one script, and delete the letters that they replay."""
        plain = [job for job in jobs if job.delay <= 0 and not job.trail]
        arguments: list[Any] = [self._options.limit, len(letters), int(self._options.wait > 0), len(plain)]
        arguments += [job.id for job in plain]
        arguments += [job.envelope for job in plain]
        if len(plain) < len(jobs):
            return await self._publish_mixed(queue, jobs, letters, arguments)
        return await self._publish_ordered(queue, [*arguments, *letters], len(jobs))

    async def _publish_mixed(
        self, queue: str, jobs: Sequence[Outgoing], letters: Sequence[str], arguments: list[Any]
    ) -> list[Published]:
        """Add the jobs with a delay or a trail, which the script takes behind the plain ones."""
        order = sorted(range(len(jobs)), key=lambda index: jobs[index].delay > 0 or bool(jobs[index].trail))
        for index in order:
            job = jobs[index]
            if job.delay > 0 or job.trail:
                arguments += (job.id, math.ceil(job.delay * 1000), job.trail, job.envelope)
        arguments += [letters[index] for index in order if letters]
        answers = dict(zip(order, await self._publish_ordered(queue, arguments, len(jobs)), strict=True))
        return [answers[index] for index in range(len(jobs))]

    async def _publish_ordered(self, queue: str, arguments: list[Any], number: int) -> list[Published]:
        """Run the script; once more if its reply was lost, which is safe because the script knows the ids by then."""
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
            if error.kind not in NO_ROOM and not (number == 1 and TOO_LARGE in error.says):
                raise
            return [Refused(f"{error.what} ({error.says})")] * number

    async def _store_again(self, queue: str, keys: QueueKeys, arguments: list[Any]) -> list[Published] | None:
        """Return None if this fails too, in whatever way: the first attempt may have been carried out."""
        try:
            answers = await self._store(queue, keys, arguments)
        except BrokerUnavailable:
            return None
        return [STORED if answer is DUPLICATE else answer for answer in answers]  # by the first attempt, most likely

    async def _store(self, queue: str, keys: QueueKeys, arguments: list[Any]) -> list[Published]:
        if not self._options.wait:
            [(signs, existed)] = await self._link.run("publish", PUBLISH, keys.publish, arguments)
            replicas = 0
        else:
            wait = ("WAIT", self._options.wait, math.ceil(self._options.wait_timeout * 1000))
            (signs, existed), replicas = await self._link.run("publish", PUBLISH, keys.publish, arguments, wait)
        if not existed:
            await self._register(queue)
        if replicas < self._options.wait:
            short = Uncertain(
                f"the primary has it, but only {replicas} of {self._options.wait} replicas confirmed it "
                f"within {self._options.wait_timeout:g} s"
            )
            return [self._answer(queue, sign) if sign in {FULL_SIGN, NO_ID_SIGN} else short for sign in signs]
        if signs == STORED_SIGN * len(signs):
            return [STORED] * len(signs)
        return [self._answer(queue, sign) for sign in signs]

    def _answer(self, queue: str, sign: int) -> Published:
        if sign == FULL_SIGN:
            return Refused(
                f'queue "{queue}" is full: it holds {self._options.limit:,} jobs and dead letters, its limit'
            )
        if sign == NO_ID_SIGN:
            return Refused(
                f'the stream of queue "{queue}" has no id left: an entry of another program has the last one, until a '
                "worker has taken it"
            )
        return STORED if sign == STORED_SIGN[0] else DUPLICATE

    async def _register(self, queue: str) -> None:
        """List the queue before it holds anything, so no queue with jobs is ever unlisted."""
        await self._link.call("publish", self.queues_key, ("SADD", self.queues_key, queue))
        self._registered.add(queue)

    async def unregister(self, queue: str) -> None:
        """Remove a deleted queue from the list."""
        self._registered.discard(queue)
        await self._link.call("ask", self.queues_key, ("SREM", self.queues_key, queue))


def _portions(batch: Sequence[Outgoing]) -> list[tuple[str, list[int]]]:
    """Return positions in the batch, by queue, as many as one script takes; no id is twice in one of them."""
    portions: list[tuple[str, list[int]]] = []
    filling: dict[str, tuple[list[int], set[str]]] = {}
    sizes: dict[str, int] = {}
    for index, job in enumerate(batch):
        queue, size = job.queue, len(job.envelope)
        portion, ids = filling.get(queue, (None, None))
        full = portion is not None and (len(portion) >= SCRIPT_JOBS or sizes[queue] + size > SCRIPT_BYTES)
        if portion is None or ids is None or full or job.id in ids:
            portion, ids = filling[queue] = [], set()
            portions.append((queue, portion))
            sizes[queue] = 0
        portion.append(index)
        ids.add(job.id)
        sizes[queue] += size
    return portions
