"""``taskcore queues``: how full each queue is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from taskcore.cli.numbers import age, number
from taskcore.cli.output import JSON, print_json, print_line, print_table, say
from taskcore.cli.target import Target, with_target
from taskcore.envelope import check_name

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.backend import QueueStats

__all__ = ["command", "count_queues", "plain_stats", "print_queues"]

TITLES = ("queue", "ready", "running", "scheduled", "oldest", "dead")


@click.command("queues", short_help="Queues in numbers")
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@JSON
@with_target
def command(names: tuple[str, ...], as_json: bool, at: Target) -> None:
    """Print how many jobs each queue holds: ready, running, scheduled, dead; and how old the oldest ready one is.

    Without a name: every queue of the broker, and of the app's tasks. A "?" is a number that the broker cannot tell.
    """

    async def ask(app: App) -> tuple[Mapping[str, QueueStats], str]:
        return await count_queues(app, names), app.features.broker

    stats, broker = at.run(ask)
    if as_json:
        for name, one in stats.items():
            print_json(plain_stats(name, one))
    else:
        print_queues(stats, broker)


async def count_queues(app: App, names: Sequence[str] = ()) -> Mapping[str, QueueStats]:
    """Count the jobs of these queues; of all, if none is named.

    :raises InvalidName: a name cannot be that of a queue (TC308).
    """
    admin = app.components.backend.admin
    wanted = [check_name("queue", name) for name in names]
    if not wanted:
        wanted = sorted({*await admin.queues(), *(task.spec.queue for task in app)})
    return dict(zip(wanted, await admin.stats(wanted), strict=True))


def plain_stats(queue: str, stats: QueueStats) -> dict[str, Any]:
    """Return the numbers of a queue for JSON; ``unknown`` names those that the broker cannot tell."""
    numbers = {"ready": stats.ready, "running": stats.leased, "scheduled": stats.scheduled, "dead": stats.dead}
    unknown = [name for name, value in numbers.items() if value is None]
    if stats.ready and stats.oldest is None:
        unknown.append("oldest_seconds")
    return {"queue": queue, **numbers, "oldest_seconds": stats.oldest, "unknown": unknown}


def print_queues(found: Mapping[str, QueueStats], broker: str) -> None:
    """Print a table, and below it what its question marks mean."""
    if not found:
        print_line("there is no queue yet")
        return
    rows = [
        (name, number(one.ready), number(one.leased), number(one.scheduled), age(one), number(one.dead))
        for name, one in found.items()
    ]
    print_table(TITLES, rows)
    unknown = [title for at, title in enumerate(TITLES) if any(row[at] == "?" for row in rows)]
    if unknown:
        say(f"? {broker} cannot tell: {', '.join(unknown)}")
