"""``taskcore jobs``: the jobs of a queue that wait, looked at and not taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from taskcore.backend import Peeks
from taskcore.cli.numbers import ago
from taskcore.cli.output import JSON, print_json, print_line, print_table
from taskcore.cli.target import Target, with_target
from taskcore.envelope import Envelope, Trail, check_name, decode_trail
from taskcore.errors import FeatureRefused, MalformedEnvelope

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.backend import WaitingJob

__all__ = ["command"]


@click.command("jobs", short_help="Jobs that wait in a queue")
@click.option("-q", "--queue", default="default", show_default=True, metavar="QUEUE", help="Which queue.")
@click.option(
    "--state",
    type=click.Choice(["ready", "scheduled"]),
    default="ready",
    show_default=True,
    help="Those that may start now, or those that wait for their time.",
)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@JSON
@with_target
def command(queue: str, state: Literal["ready", "scheduled"], limit: int, as_json: bool, at: Target) -> None:
    """Print the jobs of a queue that come next. They stay where they are; brokers that cannot do that say so."""
    check_name("queue", queue)

    async def ask(app: App) -> list[dict[str, Any]]:
        admin = app.components.backend.admin
        if not isinstance(admin, Peeks):
            raise FeatureRefused(
                f"{app.features.broker} cannot show a job without handing it out",
                fix="ask for one job by its id: taskcore job ID; or for counts: taskcore queues",
            )
        decode = app.components.codec.decode
        return [_plain(one, decode) for one in await admin.peek(queue, state, limit=limit)]

    jobs = at.run(ask)
    if as_json:
        for job in jobs:
            print_json(job)
    elif jobs:
        print_table(("job", "task", "attempt", "sent", "due"), [_row(job) for job in jobs])
    else:
        print_line(f"no {state} job in {queue}")


def _plain(job: WaitingJob, decode: Any) -> dict[str, Any]:
    try:
        envelope: Envelope | None = decode(job.envelope)
    except MalformedEnvelope:
        envelope = None
    try:
        trail = decode_trail(job.trail)
    except MalformedEnvelope:
        trail = Trail()
    return {
        "id": envelope.id if envelope else None,
        "task": envelope.task if envelope else None,
        "attempt": trail.attempts + 1,
        "enqueued_at": envelope.enqueued_at if envelope else None,
        "due_seconds": job.due,
        "replay_of": trail.replay_of,
    }


def _row(job: dict[str, Any]) -> Sequence[str]:
    sent = "-" if job["enqueued_at"] is None else f"{ago(time.time() - job['enqueued_at'])} ago"
    due = "now" if job["due_seconds"] is None else f"in {ago(job['due_seconds'])}"
    return job["id"] or "(no envelope)", job["task"] or "-", str(job["attempt"]), sent, due
