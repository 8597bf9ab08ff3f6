"""``taskcore job``: where one job is, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.cli.group import Exit
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.cli.target import Target, with_target
from taskcore.envelope import check_name, is_safe_id
from taskcore.errors import ResultTimeout

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["command"]

ENDED = ("succeeded", "failed", "dead", "cancelled", "expired")
UNKNOWN = (
    "no job with this id: never sent here, ended longer ago than its outcome is kept, purged, or of another broker; "
    "a broker that cannot look up jobs, and has no store, knows none"
)


@click.command("job", short_help="One job: where it is, how it ended")
@click.argument("id")
@click.option("-q", "--queue", metavar="QUEUE", help="Where it was sent; default: all queues are asked.")
@JSON
@with_target
def command(id: str, queue: str | None, as_json: bool, at: Target) -> int:
    """Print where a job is, or how it ended. The exit code is 1 if the job is not known."""
    if not is_safe_id(id):
        raise click.BadParameter("this cannot be the id of a job", param_hint="ID")
    if queue is not None:
        check_name("queue", queue)

    async def ask(app: App) -> dict[str, Any]:
        job = app.job(id, queue=queue)
        state = await job.status()
        found: dict[str, Any] = {"id": id, "state": state}
        if state in ENDED and app.components.store is not None:
            try:
                outcome = await job.outcome(timeout=0)
            except ResultTimeout:  # its record ended in between
                return found
            found["outcome"] = msgspec.to_builtins(outcome, enc_hook=str)
        return found

    found = at.run(ask)
    if as_json:
        print_json(found)
    else:
        print_line(f"job {id}: {found['state']}")
        if found["state"] == "unknown":
            print_line(UNKNOWN)
        for name, value in (found.get("outcome") or {}).items():
            if name != "state" and value is not None:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                print_line(f"{name:10} {text}")
    return Exit.FAILED if found["state"] == "unknown" else Exit.DONE
