"""Runs over dead letters: counting what a filter takes, replaying at a rate behind a canary, dropping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import msgspec

from taskcore.deadletter import LetterVerdict, ReplayWith
from taskcore.errors import InvalidArguments

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.cli.letter_filter import LetterFilter
    from taskcore.deadletter import DeadLetter, SettledLetters

__all__ = ["TOO_OFTEN", "Plan", "ReplayRun", "RunTotals", "drop_letters", "make_plan"]

TOO_OFTEN = 3  #: replays, from which on a letter is left out
CANARY_POLL = 0.2  #: seconds


class Plan(NamedTuple):
    """What a run would do.

    :param letters: how many, by queue.
    :param left_out: how many of the chosen ones were replayed too often, or hold no job.
    """

    letters: Mapping[str, int]
    left_out: int

    @property
    def total(self) -> int:
        """How many letters the run takes."""
        return sum(self.letters.values())


class RunTotals:
    """What a run did.

    :ivar problems: why letters could not be settled; they stay.
    """

    def __init__(self) -> None:
        self.dropped = self.replayed = self.failed = 0
        self.problems: list[str] = []
        self.jobs: list[str] = []

    def add(self, settled: SettledLetters) -> None:
        """Add what a pass did."""
        self.dropped += settled.dropped
        self.replayed += settled.replayed
        self.failed += settled.failed
        self.problems += settled.problems
        self.jobs += settled.jobs


async def make_plan(app: App, which: LetterFilter, *, replays: bool, again: bool = False) -> Plan:
    """Count the letters that a run would take, in one pass over each queue."""
    letters: dict[str, int] = {}
    left_out = 0
    for queue in await which.queues_of(app):

        def look(letter: DeadLetter, queue: str = queue) -> LetterVerdict:
            nonlocal left_out
            if which.takes(letter):
                if replays and _is_left_out(letter, again=again):
                    left_out += 1
                else:
                    letters[queue] = letters.get(queue, 0) + 1
            return "keep"

        await app.dead_letters.settle(queue, by=look)
    return Plan(letters, left_out)


async def drop_letters(app: App, which: LetterFilter, plan: Plan) -> RunTotals:
    """Drop the letters that the filter takes."""
    totals = RunTotals()
    for queue in plan.letters:
        totals.add(await app.dead_letters.settle(queue, by=lambda one: "drop" if which.takes(one) else "keep"))
    return totals


class ReplayRun:
    """Replays letters: a few first, the rest after those have succeeded, spread over time.

    The rest is sent at once, each job with a delay, so that nothing has to live as long as the replay.

    :param rate: jobs a second; 0: as fast as they can be sent.
    :param changes: arguments in place of the old ones.
    :param again: take letters too that were replayed often.
    """

    def __init__(self, app: App, which: LetterFilter, *, rate: float, changes: Mapping[str, Any], again: bool) -> None:
        self._app = app
        self._which = which
        self._rate = rate
        self._changes = changes
        self._again = again
        self.totals = RunTotals()
        self._refused: set[str] = set()  # letters whose new arguments do not fit

    async def send(self, queues: Sequence[str], limit: int | None = None) -> list[str]:
        """Replay up to ``limit`` letters; return the ids of the new jobs."""
        before, left = len(self.totals.jobs), limit
        for queue in queues:
            sent = self.totals.replayed
            self.totals.add(await self._app.dead_letters.settle(queue, by=self._judge(left)))
            left = None if left is None else left - (self.totals.replayed - sent)
        return self.totals.jobs[before:]

    def _judge(self, limit: int | None) -> Callable[[DeadLetter], LetterVerdict]:
        taken = 0

        def judge(letter: DeadLetter) -> LetterVerdict:
            nonlocal taken
            if not self._which.takes(letter) or _is_left_out(letter, again=self._again):
                return "keep"
            if limit is not None and taken >= limit:
                return "keep"
            args = {**letter.args, **self._changes} if self._changes else None
            if args is not None and not self._fits(letter, args):
                return "keep"
            taken += 1
            delay = taken / self._rate if self._rate and limit is None else 0.0
            return ReplayWith(delay=delay, args=args)

        return judge

    def _fits(self, letter: DeadLetter, args: Mapping[str, Any]) -> bool:
        """Check new arguments by the contract, if the app knows the task."""
        task = self._app.tasks.get(letter.task)
        if task is None or letter.envelope is None:
            return True
        try:
            task.contract.unpack(msgspec.json.encode(args), letter.envelope.version)
        except InvalidArguments as error:
            if letter.id not in self._refused:
                self._refused.add(letter.id)
                self.totals.failed += 1
                self.totals.problems.append(f"{letter.id}: {'; '.join((error.what, *error.facts))}")
            return False
        return True

    async def wait_for(self, jobs: Sequence[str], queues: Sequence[str], seconds: float) -> str:
        """Wait until these jobs have ended; return why the run must not go on, "" if it may."""
        waiting = await self._unfinished(jobs, anyio.current_time() + seconds)
        if not waiting:
            return ""
        dead: list[str] = []

        def look(letter: DeadLetter) -> LetterVerdict:
            if letter.job_id in waiting:
                dead.append(letter.job_id)
            return "keep"

        for queue in queues:
            await self._app.dead_letters.settle(queue, by=look)
        if dead:
            return f"{len(dead)} of {len(jobs)} died again: {dead[0]}"
        going_on = {await self._app.job(job).status() for job in waiting} - {"unknown"}  # its outcome is not kept
        if not going_on:
            return ""
        return f"{len(waiting)} of {len(jobs)} have not ended in {seconds:g} s ({', '.join(sorted(going_on))})"

    async def _unfinished(self, jobs: Sequence[str], until: float) -> set[str]:
        """Wait for these jobs; return those that have not succeeded by then, as far as is known."""
        waiting = set(jobs)
        while True:
            for job in tuple(waiting):
                if await self._app.job(job).status() == "succeeded":
                    waiting.discard(job)
            if not waiting or anyio.current_time() >= until:
                return waiting
            await anyio.sleep(CANARY_POLL)


def _is_left_out(letter: DeadLetter, *, again: bool) -> bool:
    return letter.envelope is None or (letter.trail.replays >= TOO_OFTEN and not again)
