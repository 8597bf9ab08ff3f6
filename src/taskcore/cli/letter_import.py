"""Exported dead letters, read again, and their jobs sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.backend import Outgoing, Refused, Uncertain
from taskcore.cli.letter_runs import RunTotals
from taskcore.contract.codec import first_line
from taskcore.deadletter import DeadLetter, ReplayWith, next_job
from taskcore.envelope import Envelope, Trail, check_name

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["letters_in", "send_letters"]

AT_ONCE = 500  #: jobs that are sent at a time


class ExportedLetter(msgspec.Struct):
    """A line that ``taskcore dlq export`` printed."""

    id: str
    queue: str
    reason: str
    when: float
    trail: Trail
    envelope: Envelope | None = None


def letters_in(lines: Sequence[bytes]) -> list[DeadLetter]:
    """Read exported letters.

    :raises BadParameter: a line is none; nothing was sent.
    """
    found: list[DeadLetter] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=ExportedLetter)
        except msgspec.MsgspecError as error:
            raise click.BadParameter(f"line {number} is not an exported letter: {first_line(error)}") from error
        check_name("queue", one.queue)
        plain: dict[str, Any] = {"id": one.id, "queue": one.queue, "reason": one.reason, "when": one.when}
        known: dict[str, Any] = (
            {"job_id": one.envelope.id, "task": one.envelope.task} if one.envelope else {"job_id": "", "task": ""}
        )
        found.append(DeadLetter(**plain, **known, envelope=one.envelope, trail=one.trail, raw=b""))
    return found


async def send_letters(app: App, letters: Sequence[DeadLetter]) -> RunTotals:
    """Send the jobs of letters, each with the id that its replay would have."""
    totals, parts = RunTotals(), app.components
    jobs: list[tuple[DeadLetter, Outgoing]] = []
    for letter in letters:
        job = next_job(letter, ReplayWith(), parts.codec, parts.clock())
        if job is None:
            totals.failed += 1
            totals.problems.append(f"{letter.id}: it holds no job")
        else:
            jobs.append((letter, job))
    for start in range(0, len(jobs), AT_ONCE):
        some = jobs[start : start + AT_ONCE]
        for (letter, job), answer in zip(some, await parts.backend.publish([one for _, one in some]), strict=True):
            if isinstance(answer, Refused | Uncertain):
                totals.failed += 1
                totals.problems.append(f"{letter.id}: {answer.why}")
            else:
                totals.replayed += 1
                totals.jobs.append(job.id)
    return totals
