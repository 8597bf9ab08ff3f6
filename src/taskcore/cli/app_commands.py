"""Groups of commands about a part of an app: where the app is, what no command means, and asking the open app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import click

from taskcore.cli.loading import load_app
from taskcore.toolkit.groups import unwrap_single

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["APP_OPTION", "ID", "ask_app", "list_by_default"]

#: for every command of such a group
APP_OPTION = click.option(
    "-A", "--app", "place", metavar="MODULE:APP", help="Where the app is; default: the one that the settings name."
)
#: for every command about one thing
ID = click.argument("id")


def list_by_default(ctx: click.Context, group: click.Group, **given: Any) -> None:
    """Run the command ``list`` if none is given; an option before a command means the same as behind it."""
    ctx.default_map = dict.fromkeys(group.commands, given)
    if ctx.invoked_subcommand is None:
        ctx.invoke(group.commands["list"], **given)


def ask_app(place: str | None, app_dir: str, ask: Callable[[App], Awaitable[Any]]) -> Any:
    """Open the app, ask, and close it."""
    app = load_app(place, app_dir)

    async def run() -> Any:
        with unwrap_single():
            async with app:
                return await ask(app)

    return anyio.run(run)
