"""``taskcore status``: queues and workers, and what needs attention."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from taskcore.cli.commands.queues import count_queues, plain_stats, print_queues
from taskcore.cli.group import Exit
from taskcore.cli.numbers import ago
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.cli.target import Target, shown_url, with_target
from taskcore.toolkit.units import duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.backend import QueueStats
    from taskcore.observe import WorkerStatus

__all__ = ["command"]


@click.command("status", short_help="Queues, workers, what needs you")
@click.option("--check", is_flag=True, help="Exit with 1 if anything needs attention; for cron and monitoring.")
@click.option("--max-oldest", default="10m", show_default=True, metavar="TIME", help="How long a ready job may wait.")
@click.option("--max-dead", default=0, show_default=True, type=click.IntRange(0), help="Dead letters that are no news.")
@JSON
@with_target
def command(check: bool, max_oldest: str, max_dead: int, as_json: bool, at: Target) -> int:
    """Print what needs attention, then every queue in numbers.

    A line with "!" needs attention: a queue with jobs that no worker listens to, one whose oldest job waits for longer
    than --max-oldest, one with more dead letters than --max-dead. Which workers live is known with a store only.
    """
    limit = duration(max_oldest)

    async def ask(app: App) -> tuple[str, str, Mapping[str, QueueStats], Sequence[WorkerStatus] | None]:
        workers = await app.workers() if app.components.store is not None else None
        return shown_url(app), app.features.broker, await count_queues(app), workers

    url, broker, stats, workers = at.run(ask)
    needs = [(name, need) for name, one in stats.items() for need in _needs(name, one, workers, limit, max_dead)]
    if as_json:
        for name, one in stats.items():
            print_json({"kind": "queue", **plain_stats(name, one), "needs": [need for of, need in needs if of == name]})
    else:
        print_line(f"{url} · {_describe(workers)}")
        for name, need in needs:
            print_line(f"! {name}: {need}")
        print_queues(stats, broker)
    return Exit.FAILED if check and needs else Exit.DONE


def _needs(
    name: str, stats: QueueStats, workers: Sequence[WorkerStatus] | None, limit: float, max_dead: int
) -> Iterator[str]:
    if workers is not None and stats.unfinished and not any(name in worker.queues for worker in workers):
        yield f"no worker listens to it, and {stats.unfinished:,} jobs wait"
    elif stats.oldest is not None and stats.oldest > limit:
        yield f"behind: {stats.ready:,} jobs wait, the oldest for {ago(stats.oldest)}"
    if stats.dead > max_dead:
        yield f"{stats.dead:,} dead letter{'s' * (stats.dead != 1)}: taskcore dlq list -q {name}"


def _describe(workers: Sequence[WorkerStatus] | None) -> str:
    if workers is None:
        return "workers are not known without a store"
    slots = sum(worker.concurrency for worker in workers)
    heard = f", all heard from in the last {ago(time.time() - min(one.seen for one in workers))}" if workers else ""
    return f"{len(workers)} workers, {slots} slots{heard}"
