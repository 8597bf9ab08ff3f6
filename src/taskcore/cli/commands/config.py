"""``taskcore config``: every setting, its value, and where it came from."""

from __future__ import annotations

from typing import Any

import click

from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.loading import load_app
from taskcore.cli.output import print_json, print_table
from taskcore.config import Settings, load, show

__all__ = ["command"]


@click.command("config", short_help="Settings, and where each of them came from")
@click.argument("app", required=False, metavar="[MODULE:APP]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: setting, value, from.")
@APP_DIR
@DEBUG
def command(app: str | None, as_json: bool, app_dir: str) -> None:
    """Print every setting, its value, and where it came from.

    With MODULE:APP the settings of that app, or else those of this directory.
    """
    if app is None:
        loaded = load(directory=app_dir)
        settings, sources = loaded.settings, loaded.sources
    else:
        found = load_app(app, app_dir)
        settings, sources = found.settings, dict(found.sources)
    rows = [(name, _get(settings, name), source) for name, source in sources.items()]
    if not as_json:
        print_table(("setting", "value", "from"), [(name, show(name, value), source) for name, value, source in rows])
        return
    for name, value, source in rows:
        plain = show(name, value) if name in ("url", "store") and value else value
        print_json({"setting": name, "value": plain, "from": source})


def _get(settings: Settings, name: str) -> Any:
    """Return the value behind a dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
