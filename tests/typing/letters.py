"""What type checkers know about counts, dead letters and the seam below them; right uses and wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

from taskcore import App
from taskcore.backend import Admin, Letter, LetterWalk, Outgoing, Published, QueueStats
from taskcore.deadletter import BuriedJob, Cause, DeadLetter, LetterVerdict, SettledLetters
from taskcore.toolkit.capabilities import Peeks, WaitingJob

app = App("memory://")


async def counts() -> float:
    """Read what a broker can tell, and perhaps cannot."""
    stats = await app.stats("mail")
    assert_type(stats.ready, int)
    assert_type(stats.leased, int | None)
    assert_type(stats.scheduled, int | None)
    assert_type(stats.dead, int)
    assert_type(stats.oldest, float | None)
    assert_type(stats.parked, int | None)
    assert_type(stats.unfinished, int)
    return stats.ready + stats.scheduled  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


async def letters() -> None:
    """Read causes, and settle by them."""
    [cause] = await app.dead_letters.causes("mail", limit=10_000)
    assert_type(cause, Cause)
    assert_type(cause.fingerprint, str)
    assert_type(cause.letters, int)
    assert_type(cause.replays, int)
    assert_type(app.sync.dead_letters.causes(limit=1), Sequence[Cause])

    def judge(letter: DeadLetter) -> LetterVerdict:
        assert_type(letter.cause, str)
        assert_type(letter.trail.cause, str)
        assert_type(letter.trail.replays, int)
        return "replay" if letter.cause == cause.fingerprint else "keep"

    settled = await app.dead_letters.settle("mail", by=judge)
    assert_type(settled, SettledLetters)
    assert_type(settled.jobs, tuple[str, ...])
    await app.dead_letters.causes(limit="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.on_dead_letter
def page(job: BuriedJob) -> None:
    """Learn of the cause at the burial."""
    assert_type(job.cause, str)


async def seam(admin: Admin, job: Outgoing) -> None:
    """Do what an adapter is asked for."""
    assert_type(await admin.stats(["mail", "default"]), Sequence[QueueStats])
    async with admin.walk("mail") as walk:
        assert_type(walk, LetterWalk)
        found = await walk.page(500)
        assert_type(found, Sequence[Letter])
        assert_type(await walk.drop(found[:1]), int)
        assert_type(await walk.replay([(found[1], job)]), Sequence[Published])
        await walk.replay([found[1]])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    if isinstance(admin, Peeks):
        assert_type(await admin.peek("mail", "ready", limit=10), Sequence[WaitingJob])
        await admin.peek("mail", "dead", limit=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
