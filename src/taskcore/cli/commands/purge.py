"""``taskcore purge``: deletes the jobs of a queue that have not started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskcore.cli.consent import Consent, with_consent
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.cli.target import Target, with_target
from taskcore.envelope import check_name

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.backend import QueueStats

__all__ = ["command"]


@click.command("purge", short_help="Delete the waiting jobs of a queue")
@click.argument("queue")
@JSON
@with_consent
@with_target
def command(queue: str, as_json: bool, consent: Consent, at: Target) -> None:
    """Delete all jobs of a queue that have not started: nothing brings them back. Dead letters stay.

    Where the broker cannot reach scheduled jobs, they stay, too, and a warning says so.
    """
    check_name("queue", queue)
    app = at.load()

    async def count(app: App) -> QueueStats:
        [stats] = await app.components.backend.admin.stats([queue])
        return stats

    async def purge(app: App) -> int:
        return await app.purge(queue)

    stats = at.run(count, app)
    scheduled = "an unknown number of" if stats.scheduled is None else f"{stats.scheduled:,}"
    if consent.get(app, f"delete {stats.ready:,} ready and {scheduled} scheduled jobs of queue {queue}"):
        purged = at.run(purge, app)
        if as_json:
            print_json({"queue": queue, "purged": purged})
        else:
            print_line(f"{purged:,} jobs of queue {queue} are deleted")
