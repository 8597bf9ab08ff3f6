"""``taskcore workflows``: list workflows, draw one with the states of its steps, cancel and replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.cli.app_commands import APP_OPTION, ID, ask_app, list_by_default
from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.output import JSON, print_json, print_line, print_table

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.workflows import StepState, WorkflowProgress, WorkflowState

__all__ = ["command"]


#: What stands before a step in the drawing.
SIGNS = {"succeeded": "+", "dead": "x", "expired": "x", "cancelled": "x", "ready": ">", "waiting": "."}


@click.group("workflows", invoke_without_command=True, short_help="List, draw, cancel and replay workflows")
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
@click.pass_context
def command(ctx: click.Context, place: str | None, as_json: bool, app_dir: str) -> None:
    """List workflows, draw one with the states of its steps, cancel and replay.

    Without a command the newest workflows are listed.
    """
    list_by_default(ctx, command, place=place, as_json=as_json, app_dir=app_dir)


@command.command("list")
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(1, 500), help="How many at most.")
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
def list_(place: str | None, as_json: bool, app_dir: str, number: int = 20) -> None:
    """List the newest workflows: how far each has come."""

    async def run(app: App) -> list[WorkflowState]:
        found: list[WorkflowState] = []
        async for state in app.workflows.recent():
            found.append(state)
            if len(found) == number:
                break
        return found

    states = ask_app(place, app_dir, run)
    if as_json:
        for state in states:
            print_json(_plain(state))
    elif states:
        rows = [(state.id, state.name, state.status, _counts(state.progress), state.reason) for state in states]
        print_table(("workflow", "name", "state", "jobs", "reason"), rows)
    else:
        print_line("no workflows: none was sent lately to the store of this app")


@command.command()
@ID
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
def show(id: str, place: str | None, as_json: bool, app_dir: str) -> None:
    """Draw a workflow: each step with its state, and the steps that it waits for."""
    state: WorkflowState = ask_app(place, app_dir, lambda app: app.workflows.show(id))
    if as_json:
        print_json(_plain(state))
        return
    print_line(f"{state.name}  {state.status}  jobs: {_counts(state.progress)}  {state.id}")
    if state.reason:
        print_line(f"reason: {state.reason}")
    for line in _drawing(state.steps):
        print_line(line)


@command.command()
@ID
@APP_OPTION
@APP_DIR
@DEBUG
@click.pass_context
def cancel(ctx: click.Context, id: str, place: str | None, app_dir: str) -> None:
    """Let no further step of a workflow start."""
    if ask_app(place, app_dir, lambda app: app.workflows.cancel(id)):
        print_line(f"{id} is cancelled")
        return
    print_line(f"{id} had ended already")
    ctx.exit(1)


@command.command()
@ID
@click.option("--deadline", default="1d", show_default=True, metavar="TIME", help="No step starts after it.")
@APP_OPTION
@APP_DIR
@DEBUG
def replay(id: str, deadline: str, place: str | None, app_dir: str) -> None:
    """Go on with a workflow that has ended: steps that succeeded do not run again. Prints the new id."""
    run = ask_app(place, app_dir, lambda app: app.workflows.replay(id, deadline=deadline))
    print_line(run.id)


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────


def _drawing(steps: tuple[StepState, ...]) -> list[str]:
    """Draw steps, each further to the right than those that it waits for."""
    depths: dict[str, int] = {}
    for step in steps:
        depths[step.name] = 1 + max((depths[name] for name in step.waits_for), default=-1)
    heads = [f"{'  ' * depths[step.name]}{SIGNS.get(step.status, '-')} {step.name}" for step in steps]
    width = max(map(len, heads))
    lines = []
    for step, head in zip(steps, heads, strict=True):
        counts = f"  {_counts(step.progress)}" if step.is_map else ""
        behind = f"  <- {', '.join(step.waits_for)}" if step.waits_for else ""
        why = f"  ({step.reason})" if step.reason else ""
        lines.append(f"{head:{width}}  {step.status:9}{counts}{behind}{why}".rstrip())
    return lines


def _counts(progress: WorkflowProgress) -> str:
    """Write how many jobs have ended, of how many."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.total - progress.waiting}/{progress.total}{failed}"


def _plain(state: WorkflowState) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(state)
    return {**plain, "progress": {**msgspec.to_builtins(state.progress), "waiting": state.progress.waiting}}
