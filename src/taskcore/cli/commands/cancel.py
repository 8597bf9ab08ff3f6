"""``taskcore cancel``: keeps jobs from starting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskcore.cli.consent import Consent, with_consent
from taskcore.cli.group import Exit
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.cli.target import Target, with_target
from taskcore.envelope import check_name, is_safe_id

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["command"]


@click.command("cancel", short_help="Keep jobs from starting")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("-q", "--queue", metavar="QUEUE", help="Where they were sent; default: all queues are asked.")
@JSON
@with_consent
@with_target
def command(ids: tuple[str, ...], queue: str | None, as_json: bool, consent: Consent, at: Target) -> int:
    """Keep jobs from starting. A job that has started goes on, and is asked to stop; one that has ended stays as it is.

    The exit code is 7 if some were not cancelled.
    """
    if not all(map(is_safe_id, ids)):
        raise click.BadParameter("one of these cannot be the id of a job", param_hint="ID")
    if queue is not None:
        check_name("queue", queue)
    app = at.load()
    if not consent.get(app, f"cancel {len(ids)} job{'s' * (len(ids) != 1)}: {', '.join(ids[:5])}"):
        return Exit.DONE

    async def ask(app: App) -> dict[str, bool]:
        return {one: await app.job(one, queue=queue).cancel() for one in ids}

    cancelled = at.run(ask, app)
    for one, done in cancelled.items():
        if as_json:
            print_json({"id": one, "cancelled": done})
        else:
            print_line(f"{one}: {'cancelled' if done else 'not cancelled: it has started or ended, or is unknown'}")
    return Exit.DONE if all(cancelled.values()) else Exit.PARTLY
