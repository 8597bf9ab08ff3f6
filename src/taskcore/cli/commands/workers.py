"""``taskcore workers``: which workers live, and what they do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from taskcore.cli.numbers import ago
from taskcore.cli.output import JSON, print_json, print_line, print_table
from taskcore.cli.target import Target, with_target

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.observe import WorkerStatus

__all__ = ["command"]

TITLES = ("worker", "host", "queues", "running", "busy", "up", "heard", "longest job")


@click.command("workers", short_help="Who works, on what")
@JSON
@with_target
def command(as_json: bool, at: Target) -> None:
    """Print the workers that live, as each told the store a few seconds ago."""

    async def ask(app: App) -> Sequence[WorkerStatus]:
        return await app.workers()

    workers = at.run(ask)
    if as_json:
        for worker in workers:
            print_json(worker)
    elif workers:
        print_table(TITLES, [_row(worker) for worker in workers])
    else:
        print_line("no worker lives, or none has a heartbeat")


def _row(worker: WorkerStatus) -> Sequence[str]:
    now = time.time()
    longest = min(worker.jobs, key=lambda job: job.since, default=None)
    return (
        worker.name,
        f"{worker.host}/{worker.pid}",
        ",".join(worker.queues),
        f"{worker.running} of {worker.concurrency}",
        f"{worker.utilisation:.0%}",
        ago(now - worker.started),
        f"{ago(now - worker.seen)} ago",
        "-" if longest is None else f"{longest.task} {longest.id} {ago(now - longest.since)}",
    )
