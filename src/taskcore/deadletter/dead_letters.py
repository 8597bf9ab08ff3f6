"""DeadLetters: reads, replays and drops them, one by one or in one pass. Written over the backend's ``Admin``."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from taskcore.backend import Letter, LetterWalk, Outgoing, Published, Refused, Uncertain
from taskcore.components import Components
from taskcore.contract.codec import first_line
from taskcore.deadletter.causes import Cause, why
from taskcore.deadletter.letters import DeadLetter, open_letter
from taskcore.envelope import Trail, check_name, encode_trail
from taskcore.errors import EnqueueRefused, EnqueueUncertain, InvalidSetting, LetterNotFound
from taskcore.toolkit.units import Duration, seconds_of, shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = ["DeadLetters", "LetterVerdict", "ReplayWith", "SettledLetters"]

FIRST_PAGE, LARGEST_PAGE = 100, 2_000  #: letters fetched at a time; some brokers read all of them for each page
WALK_PAGE = 500  #: letters that are settled at a time
NAMED_LIMIT = 1_000  #: jobs and failures that an answer names

GIVE_A_VERDICT = 'give a plain function that returns "keep", "drop", "replay" or ReplayWith(…) for each letter'
NO_ENVELOPE = "it does not hold an envelope, so there is no job to replay"


class ReplayWith(PublicValue, frozen=True, kw_only=True):
    """Replay a letter, with changes.

    :param delay: how long until its job may start, as in ``using(delay=…)``. A slow replay is one with growing delays:
        the pass itself is quick.
    :param args: the arguments of the new job; None: the old ones. The worker checks them, as those of any job.
    :raises InvalidSetting: a value is impossible (TC104).
    """

    delay: Duration = 0.0
    args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "delay", seconds_of("delay", self.delay))
        self.encoded_args()

    def encoded_args(self) -> msgspec.Raw | None:
        """Return the arguments as they travel.

        :raises InvalidSetting: they cannot (TC104).
        """
        if self.args is None:
            return None
        why = "expected names and values"
        if isinstance(self.args, Mapping) and all(isinstance(name, str) for name in self.args):
            try:
                return msgspec.Raw(msgspec.json.encode(dict(self.args)))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                why = first_line(error)
        raise InvalidSetting(
            f"args={shorten_repr(self.args)} is not a mapping of names to plain data",
            facts=[why],
            fix='for example args={**letter.args, "currency": "EUR"}',
        )


#: What is to become of a letter.
LetterVerdict: TypeAlias = Literal["keep", "drop", "replay"] | ReplayWith


class SettledLetters(PublicValue, frozen=True, kw_only=True):
    """What a pass did.

    :param failed: letters that could not be replayed; they stay.
    :param jobs: the ids of the new jobs, at most 1,000.
    :param problems: why letters could not be replayed, at most 1,000 lines.
    """

    kept: int
    dropped: int
    replayed: int
    failed: int
    jobs: tuple[str, ...]
    problems: tuple[str, ...]


class DeadLetters:
    """The dead letters of an app: ``app.dead_letters``."""

    def __init__(self, components: Components) -> None:
        self._admin = components.backend.admin
        self._clock = components.clock
        self._codec = components.codec
        self._broker = components.backend.features.broker

    def __repr__(self) -> str:
        return f"<DeadLetters on {self._broker}>"

    # ── one by one ──

    async def read(self, queue: str = "default", *, task: str | None = None) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a queue, oldest first; only those of one task, if it is named.

        :raises InvalidName: one of the names cannot be one (TC308).
        """
        after, limit = None, FIRST_PAGE
        check_name("queue", queue)
        if task not in (None, ""):  # "": those that hold no job
            check_name("task", task)
        while page := await self._admin.letters(queue, limit=limit, after=after):
            for letter in page:
                opened = open_letter(letter, self._codec)
                if task is None or opened.task == task:
                    yield opened
            after, limit = page[-1].id, min(4 * limit, LARGEST_PAGE)

    async def get(self, letter_id: str) -> DeadLetter:
        """Return one dead letter.

        :raises LetterNotFound: there is none with that id (TC407).
        """
        letter = await self._admin.letter(letter_id) if _can_be(letter_id) else None
        if letter is None:
            raise _not_found(letter_id)
        return open_letter(letter, self._codec)

    async def replay(self, letter_id: str) -> str:
        """Send the job again, as a new job that links back to the old one; return its id.

        Arguments, key, headers and correlation id stay; attempts begin anew; the old deadline is dropped.
        Replaying a letter twice, or again after a crash, makes one new job: its id follows from the letter.

        :raises LetterNotFound: there is none with that id, or it does not hold an envelope (TC407).
        :raises EnqueueRefused: the broker refused the new job; the letter stays (TC203).
        :raises EnqueueUncertain: no answer; replaying again sends the same id (TC202).
        """
        letter = await self.get(letter_id)
        job = self._next_job(letter, ReplayWith())
        if job is None:
            raise LetterNotFound(
                f"dead letter {letter_id} does not hold an envelope, so there is no job to replay",
                facts=[f"its reason: {letter.reason}"],
                fix="read its `raw` bytes, enqueue the work again, then drop the letter",
            )
        published = await self._admin.replay(letter_id, job)
        if isinstance(published, Refused):
            what = f"the replay of dead letter {letter_id} was refused: {published.why}"
            raise EnqueueRefused(what, fix=published.fix or None)
        if isinstance(published, Uncertain):
            raise EnqueueUncertain(f"the replay of dead letter {letter_id} is uncertain: {published.why}")
        return job.id

    async def drop(self, letter_id: str) -> None:
        """Delete a dead letter.

        :raises LetterNotFound: there is none with that id (TC407).
        """
        if not (_can_be(letter_id) and await self._admin.drop(letter_id)):
            raise _not_found(letter_id)

    async def count(self, queue: str = "default") -> int:
        """Count the dead letters of a queue."""
        [stats] = await self._admin.stats([check_name("queue", queue)])
        return stats.dead

    # ── all of them, in one pass ──

    async def causes(self, queue: str = "default") -> Sequence[Cause]:
        """Group the dead letters of a queue by what they died of; the largest groups first."""
        causes: dict[str, Cause] = {}
        async with self._admin.walk(check_name("queue", queue)) as walk:
            while page := await walk.page(WALK_PAGE):
                for one in page:
                    letter = open_letter(one, self._codec)
                    name = letter.cause
                    causes[name] = _grown(causes.get(name), name, letter)
        return sorted(causes.values(), key=lambda cause: (-cause.letters, cause.first))

    async def settle(self, queue: str = "default", *, by: Callable[[DeadLetter], LetterVerdict]) -> SettledLetters:
        """Settle the dead letters that a queue has now, in one pass: keep, drop or replay each.

        A pass costs as much as it reads, whatever the broker; letters that are buried meanwhile are not touched. A pass
        that is interrupted has settled some letters whole and the others not at all, and may be repeated.

        :param by: decides about each letter; it must not wait, because some brokers hide the letters until its end.
        :raises InvalidSetting: ``by`` is not a plain function, or returned something else for a letter; that letter and
            those of its page stay (TC104).
        """
        if not callable(by) or iscoroutinefunction(by):
            raise InvalidSetting(f"by={shorten_repr(by)} is not a plain function", fix=GIVE_A_VERDICT)
        totals = _PassTotals()
        async with self._admin.walk(check_name("queue", queue)) as walk:
            while page := await walk.page(WALK_PAGE):
                await self._settle_page(walk, page, by, totals)
        return totals.answer()

    async def _settle_page(
        self, walk: LetterWalk, page: Sequence[Letter], by: Callable[[DeadLetter], LetterVerdict], totals: _PassTotals
    ) -> None:
        dropped: list[Letter] = []
        replayed: list[tuple[Letter, Outgoing]] = []
        for letter in page:
            opened = open_letter(letter, self._codec)
            verdict: object = by(opened)  # what comes back is the caller's
            if verdict == "keep":
                totals.kept += 1
            elif verdict == "drop":
                dropped.append(letter)
            elif verdict != "replay" and not isinstance(verdict, ReplayWith):
                what = f"the function returned {shorten_repr(verdict)} for dead letter {opened.id}"
                raise InvalidSetting(what, fix=GIVE_A_VERDICT)
            else:
                job = self._next_job(opened, verdict if isinstance(verdict, ReplayWith) else ReplayWith())
                if job is None:
                    totals.fail(letter, NO_ENVELOPE)
                else:
                    replayed.append((letter, job))
        if dropped:
            totals.dropped += await walk.drop(dropped)
        if replayed:
            totals.note(replayed, await walk.replay(replayed))

    def _next_job(self, letter: DeadLetter, changes: ReplayWith) -> Outgoing | None:
        """Make the job that replays a letter; None if it does not hold an envelope."""
        old = letter.envelope
        if old is None:
            return None
        job_id = _next_incarnation(letter)
        envelope = msgspec.structs.replace(
            old,
            id=job_id,
            args=changes.encoded_args() or old.args,
            enqueued_at=self._clock(),
            deadline=None,
            correlation_id=old.correlation_id or old.id,
        )
        trail = Trail(replay_of=old.id, replays=letter.trail.replays + 1)
        delay = seconds_of("delay", changes.delay)
        return Outgoing(letter.queue, job_id, self._codec.encode(envelope), encode_trail(trail), delay)


class _PassTotals:
    """Counts what a pass does."""

    def __init__(self) -> None:
        self.kept = self.dropped = self.replayed = self.failed = 0
        self._jobs: list[str] = []
        self._problems: list[str] = []

    def note(self, batch: Sequence[tuple[Letter, Outgoing]], answers: Sequence[Published]) -> None:
        for (letter, job), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Refused | Uncertain):
                self.fail(letter, answer.why)
                continue
            self.replayed += 1
            if len(self._jobs) < NAMED_LIMIT:
                self._jobs.append(job.id)

    def fail(self, letter: Letter, problem: str) -> None:
        self.failed += 1
        if len(self._problems) < NAMED_LIMIT:
            self._problems.append(f"{letter.id}: {problem}")

    def answer(self) -> SettledLetters:
        return SettledLetters(
            kept=self.kept,
            dropped=self.dropped,
            replayed=self.replayed,
            failed=self.failed,
            jobs=tuple(self._jobs),
            problems=tuple(self._problems),
        )


def _grown(before: Cause | None, name: str, letter: DeadLetter) -> Cause:
    """Add a letter to its cause."""
    error = letter.trail.errors[-1] if letter.trail.errors else None
    is_newest = before is None or letter.when >= before.last
    return Cause(
        fingerprint=name,
        queue=letter.queue,
        task=letter.task,
        reason=letter.reason if before is None or is_newest else before.reason,
        why=why(letter.reason, error) if before is None or is_newest else before.why,
        letters=1 if before is None else before.letters + 1,
        first=letter.when if before is None else min(letter.when, before.first),
        last=letter.when if before is None else max(letter.when, before.last),
        replays=letter.trail.replays if before is None else max(letter.trail.replays, before.replays),
        newest=letter.id if before is None or is_newest else before.newest,
    )


def _can_be(letter_id: object) -> bool:
    """Tell whether this can be the id of a letter; nothing else is shown to a broker."""
    return isinstance(letter_id, str) and letter_id.isprintable()


def _next_incarnation(letter: DeadLetter) -> str:
    """Derive an id from the letter, a UUID of version 8: repeating a replay repeats the id."""
    digest = hashlib.blake2b(f"{letter.queue}/{letter.id}/{letter.when}".encode(), digest_size=16).digest()
    return str(UUID(int=UUID(bytes=digest).int & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62))


def _not_found(letter_id: str) -> LetterNotFound:
    return LetterNotFound(
        f"there is no dead letter {shorten_repr(letter_id)}", fix="`app.dead_letters.read(queue)` lists them"
    )
