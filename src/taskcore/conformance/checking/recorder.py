"""RecordingBackend: any backend, with everything that crosses the seam written into a history.

An enqueue is written down twice: before the call, and with its answer. So the history of a process that was killed in
between shows an operation without an answer.

    Stored → ok   Duplicate → duplicate   Refused, BrokerUnavailable → refused   Uncertain, anything else → uncertain
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

import msgspec

from taskcore.backend import (
    Admin,
    Backend,
    Delivery,
    Duplicate,
    Features,
    Letter,
    LetterWalk,
    Outgoing,
    Place,
    Published,
    QueueStats,
    Refused,
    Source,
    Stored,
    Uncertain,
)
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Bury, Reschedule, Verdict
from taskcore.testing.history import EntryKind, History

__all__ = ["RecordingBackend", "digest", "job_of"]

ANSWERS: dict[type[Published], EntryKind] = {
    Stored: "ok",
    Duplicate: "duplicate",
    Refused: "refused",
    Uncertain: "uncertain",
}


RAW = "raw-"  #: how the names of bytes begin that are no envelope


class RecordingBackend:
    """A backend whose enqueues, hand-outs and settling are written down; otherwise the same.

    :param who: who acts through this connection; runs recorded under the same name are matched with their settling.
        None: the actor of the moment (see :class:`taskcore.conformance.checking.actors.Actors`).
    """

    def __init__(self, backend: Backend, history: History, who: str | None = None) -> None:
        self.inner = self._backend = backend  #: for what is no verb
        self._history = history
        self._who = who

    @property
    def features(self) -> Features:
        """See :class:`taskcore.backend.Backend`."""
        return self._backend.features

    @property
    def admin(self) -> Admin:
        """See :class:`taskcore.backend.Backend`."""
        return _RecordingAdmin(self._backend.admin, self._history, self._who)

    async def __aenter__(self) -> Self:
        await self._backend.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._backend.__aexit__(*exc)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """See :class:`taskcore.backend.Backend`."""
        began = self._history.now()
        for job in batch:
            record_invoke(self._history, self._who, job)
        try:
            answers = await self._backend.publish(batch)
        except BrokerUnavailable as error:
            self._answer(batch, "refused", began, why=str(error.what))
            raise
        except BaseException as error:
            self._answer(batch, "uncertain", began, why=type(error).__name__)
            raise
        for job, answer in zip(batch, answers, strict=True):
            record_answer(self._history, self._who, job, answer, began)
        return answers

    def _answer(self, batch: Iterable[Outgoing], kind: EntryKind, began: float, **facts: Any) -> None:
        for job in batch:
            self._history.record(kind, name_of(job), who=self._who, took=self._history.now() - began, **facts)

    @asynccontextmanager
    async def _consuming(self, context: AbstractAsyncContextManager[Source]) -> AsyncIterator[Source]:
        async with context as source:
            yield _RecordingSource(source, self._history, self._who)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """See :class:`taskcore.backend.Backend`."""
        return self._consuming(self._backend.consume(queues, lease=lease))


class _RecordingSource:
    """A source whose hand-outs and settling are written down."""

    def __init__(self, source: Source, history: History, who: str | None) -> None:
        self.inner = self._source = source
        self._history = history
        self._who = who
        self.extend = source.extend  # leases are what the runs show

    async def receive(self, limit: int) -> Sequence[Delivery]:
        batch = await self._source.receive(limit)
        for delivery in batch:
            self._history.record(
                "event",
                job_of(delivery.envelope),
                who=self._who,
                name="received",
                queue=delivery.queue,
                envelope=digest(delivery.envelope),
                redeliveries=delivery.redeliveries,
            )
        return batch

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        began = self._history.now()
        try:
            lost = await self._source.settle(batch)
        except BaseException as error:
            for delivery, verdict in batch:
                self._record_verdict(
                    "event", delivery, verdict, began, name="settle.uncertain", why=type(error).__name__
                )
            raise
        gone = {id(delivery) for delivery in lost}
        for delivery, verdict in batch:
            self._record_verdict("lost" if id(delivery) in gone else "settled", delivery, verdict, began)
        return lost

    def _record_verdict(
        self, kind: EntryKind, delivery: Delivery, verdict: Verdict, began: float, **facts: Any
    ) -> None:
        if isinstance(verdict, Reschedule):
            facts["after"] = verdict.after
        if isinstance(verdict, Bury):
            facts |= {"reason": verdict.reason, "trail": digest(verdict.trail)}
        self._history.record(
            kind,
            job_of(delivery.envelope),
            who=self._who,
            verdict=type(verdict).__name__.lower(),
            began=began,
            took=self._history.now() - began,
            **facts,
        )


class _RecordingAdmin:
    """What people do to jobs behind the workers' backs is part of their history."""

    def __init__(self, admin: Admin, history: History, who: str | None) -> None:
        self._admin = admin
        self._history = history
        self._who = who
        self.queues = admin.queues
        self.letters = admin.letters
        self.letter = admin.letter

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        return await self._admin.stats(queues)

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[LetterWalk]:
        async with self._admin.walk(queue) as walk:
            yield _RecordingWalk(walk, self)

    async def locate(self, queue: str, job_id: str) -> Place | None:
        return await self._admin.locate(queue, job_id)

    async def purge(self, queue: str) -> int:
        purged = await self._admin.purge(queue)
        self._history.record("event", "", who=self._who, name="purged", queue=queue, jobs=purged)
        return purged

    async def delete(self, queue: str) -> None:
        await self._admin.delete(queue)
        self._history.record("event", "", who=self._who, name="deleted", queue=queue)

    async def remove(self, queue: str, job_id: str) -> bool:
        try:
            removed = await self._admin.remove(queue, job_id)
        except BaseException:
            self._history.record("event", job_id, who=self._who, name="remove.uncertain")
            raise
        if removed:
            self._history.record("cancelled", job_id, who=self._who)
        return removed

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        letter = await self._admin.letter(letter_id)

        async def replay() -> Sequence[Published]:
            return [await self._admin.replay(letter_id, job)]

        [answer] = await self.record_replays([(letter, job)], replay)
        return answer

    async def record_replays(
        self, batch: Sequence[tuple[Letter | None, Outgoing]], replay: Callable[[], Awaitable[Sequence[Published]]]
    ) -> Sequence[Published]:
        began, history, who = self._history.now(), self._history, self._who
        for letter, job in batch:
            link = {} if letter is None else {"replays": job_of(letter.envelope)}
            record_invoke(history, who, job, via="replay", **link)
        try:
            answers = await replay()
        except BaseException as error:
            facts = {"took": history.now() - began, "why": type(error).__name__, "via": "replay"}
            for letter, job in batch:
                history.record("uncertain", name_of(job), who=who, **facts)
                if letter is not None:
                    history.record("event", job_of(letter.envelope), who=who, name="replay.uncertain")
            raise
        for (letter, job), answer in zip(batch, answers, strict=True):
            record_answer(history, who, job, answer, began, via="replay")
            if letter is not None and isinstance(answer, Stored | Duplicate):
                history.record("replayed", job_of(letter.envelope), who=who, letter=letter.id, into=name_of(job))
        return answers

    async def drop(self, letter_id: str) -> bool:
        letter: Letter | None = await self._admin.letter(letter_id)
        dropped = await self._admin.drop(letter_id)
        if dropped and letter is not None:
            self.record_drops([letter])
        return dropped

    def record_drops(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self._history.record("event", job_of(letter.envelope), who=self._who, name="dropped", letter=letter.id)


class _RecordingWalk:
    """What a pass over dead letters does is part of their history, too."""

    def __init__(self, walk: LetterWalk, admin: _RecordingAdmin) -> None:
        self._walk = walk
        self._admin = admin
        self.page = walk.page

    async def drop(self, letters: Sequence[Letter]) -> int:
        dropped = await self._walk.drop(letters)
        self._admin.record_drops(letters)
        return dropped

    async def replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        return await self._admin.record_replays(batch, lambda: self._walk.replay(batch))


# ── what is written ──────────────────────────────────────────────────────────────────────────────


class _EnvelopeHead(msgspec.Struct):
    """The parts of an envelope that the checker wants; read here without the library's own reader."""

    id: str
    task: str = ""
    key: str | None = None
    enqueued_at: float = 0.0
    deadline: float | None = None


_read = msgspec.json.Decoder(_EnvelopeHead).decode


def record_invoke(history: History, who: str | None, job: Outgoing, **facts: Any) -> None:
    """Record that an enqueue begins. ``expires`` is the deadline in seconds from now, whatever clock the sender has."""
    try:
        head = _read(job.envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        head = _EnvelopeHead(id=job.id)
    expires = None if head.deadline is None else head.deadline - head.enqueued_at
    known = {"task": head.task, "key": head.key, "expires": expires, "delay": job.delay or None}
    facts |= {name: value for name, value in known.items() if value is not None}
    history.record("invoke", name_of(job), who=who, queue=job.queue, envelope=digest(job.envelope), **facts)


def record_answer(
    history: History, who: str | None, job: Outgoing, answer: Published, began: float, **facts: Any
) -> None:
    """Record the answer to an enqueue."""
    if isinstance(answer, Refused | Uncertain):
        facts["why"] = answer.why
    history.record(ANSWERS[type(answer)], name_of(job), who=who, took=history.now() - began, **facts)


def digest(data: bytes) -> str:
    """Return a short name for some bytes, to see whether they are the same."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def name_of(job: Outgoing) -> str:
    """Name a job that is sent: by its id, and bytes that are no envelope as when they come."""
    found = job_of(job.envelope)
    return found if found.startswith(RAW) else job.id


def job_of(envelope: bytes) -> str:
    """Return the id in an envelope; for bytes that are none a name that follows from them."""
    try:
        return _read(envelope).id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return f"{RAW}{digest(envelope)}"
