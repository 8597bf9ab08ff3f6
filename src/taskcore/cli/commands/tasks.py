"""``taskcore tasks``: the app's tasks and their contracts."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click

from taskcore.cli.output import JSON, print_json, print_line, print_table
from taskcore.cli.target import Target, with_target

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.task import Task

__all__ = ["command", "task_of"]


@click.command("tasks", short_help="Tasks and their contracts")
@click.argument("name", required=False, metavar="[TASK]")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of arguments and result; of one task.")
@JSON
@with_target
def command(name: str | None, schema: bool, as_json: bool, at: Target) -> None:
    """Print the tasks of an app: name, version, queue and signature."""
    if at.url is not None:
        raise click.UsageError("tasks are in the code of an app: give --app MODULE:APP")
    if schema and name is None:
        raise click.UsageError("--schema is about one task: name it")
    app = at.load()
    tasks = sorted(app, key=lambda task: task.name) if name is None else [task_of(app, name)]
    if schema:
        print_json(tasks[0].contract.schema())
    elif as_json:
        for task in tasks:
            print_json(_plain(task))
    elif tasks:
        print_table(("task", "version", "queue", "signature"), [_row(task) for task in tasks])
    else:
        print_line("this app has no tasks")


def task_of(app: App, name: str) -> Task[..., Any]:
    """Return the task of this name.

    :raises BadParameter: the app has none.
    """
    task = app.tasks.get(name)
    if task is None:
        close = difflib.get_close_matches(name, app.tasks, n=1)
        hint = f', did you mean "{close[0]}"?' if close else "; `taskcore tasks` lists them"
        raise click.BadParameter(f'the app has no task "{name}"{hint}', param_hint="TASK")
    return task


def _row(task: Task[..., Any]) -> tuple[str, str, str, str]:
    return task.name, str(task.contract.version), task.spec.queue, task.contract.signature


def _plain(task: Task[..., Any]) -> dict[str, Any]:
    name, _, queue, signature = _row(task)
    where = task.contract.where
    return {"task": name, "version": task.contract.version, "queue": queue, "signature": signature, "where": where}
