"""``taskcore job``: how far a job is or how it ended, the workflows that it is a part of, and its children."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.cli.app_commands import APP_OPTION, ID, ask_app
from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.toolkit.units import shorten_repr

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.results import JobOutcome
    from taskcore.workflows import JobFamily

__all__ = ["command"]

#: What stands before a child.
SIGNS = {"succeeded": "+", "dead": "x", "expired": "x", "cancelled": "x", "ready": ">", "waiting": "."}


@click.command("job", short_help="Show a job: its outcome, its parents and children")
@ID
@click.option("-q", "--queue", metavar="NAME", help="Where it was sent; default: all queues are asked.")
@click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(0, 10_000), help="How many children at most."
)
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
@click.pass_context
def command(
    ctx: click.Context, id: str, queue: str | None, number: int, place: str | None, as_json: bool, app_dir: str
) -> None:
    """Show how far a job is, or how it ended; of which workflows it is a part, and its children."""

    async def ask(app: App) -> tuple[str, JobOutcome[Any] | None, JobFamily]:
        job = app.job(id, queue=queue)
        status = await job.status()
        is_over = status in {"succeeded", "failed", "dead", "cancelled", "expired"}
        family = await app.workflows.family(id, limit=number)
        return status, await job.outcome(timeout=0) if is_over else None, family

    status, outcome, family = ask_app(place, app_dir, ask)
    if as_json:
        print_json({"id": id, "status": status, **_told(outcome), "parents": family.parents, **_children(family)})
    else:
        print_line(f"{id}  {status}")
        for name, value in _told(outcome).items():
            print_line(f"{name}: {shorten_repr(value) if name == 'result' else value}")
        for line in _drawing(family):
            print_line(line)
    if status == "unknown":
        ctx.exit(1)


def _told(outcome: JobOutcome[Any] | None) -> dict[str, Any]:
    """Tell the result of a job, or why it has none."""
    from taskcore.results import Dead, Failed, Succeeded

    if isinstance(outcome, Succeeded):
        return {"result": outcome.value}
    if isinstance(outcome, Failed):
        return {"reason": f"{outcome.record.type}: {outcome.record.message}"}
    if isinstance(outcome, Dead):
        error = "" if outcome.record is None else f" ({outcome.record.type}: {outcome.record.message})"
        return {"reason": outcome.reason + error}
    return {}


def _children(family: JobFamily) -> dict[str, Any]:
    if family.workflow is None:
        return {"children": []}
    progress = family.workflow.progress
    counts = {**msgspec.to_builtins(progress), "waiting": progress.waiting}
    return {"workflow": family.workflow.name, "progress": counts, "children": family.children}


def _drawing(family: JobFamily) -> list[str]:
    """Draw the parents, the outermost first, and the children."""
    lines = ["parents:"] if family.parents else []
    for depth, parent in enumerate(family.parents):
        place = "" if parent.index is None else f"[{parent.index}]"
        step = f"  its step {parent.step}{place}" if parent.step else ""
        lines.append(f"{'  ' * (depth + 1)}{parent.name}  {parent.status}  {parent.id}{step}")
    if family.workflow is None:
        return lines
    progress = family.workflow.progress
    failed = f", {progress.failed} failed" if progress.failed else ""
    lines.append(f"children, as {family.workflow.name}: {progress.total - progress.waiting}/{progress.total}{failed}")
    heads = [one.step if one.index is None else f"{one.step}[{one.index}]" for one in family.children]
    width = max(map(len, heads), default=0)
    for one, head in zip(family.children, heads, strict=True):
        lines.append(f"  {SIGNS.get(one.status, '-')} {head:{width}}  {one.status:9}  {one.id}")
    if len(family.children) < progress.total:
        lines.append(f"  and {progress.total - len(family.children):,} more (--number)")
    return lines
