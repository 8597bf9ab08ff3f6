"""Where a command of an operator looks: an app, or the URLs of broker and store alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio
import click

from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.loading import load_app
from taskcore.config import load, show
from taskcore.toolkit.groups import unwrap_single

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["Target", "shown_url", "with_target"]

T = TypeVar("T")

PLACE = click.option(
    "-A", "--app", "place", metavar="MODULE:APP", help="Where the app is; default: the one that the settings name."
)
URL = click.option("-u", "--url", metavar="URL", help="The broker, instead of an app: no code is imported.")
STORE = click.option("--store", metavar="URL", help="The store that goes with --url, if the broker has none.")


class Target(NamedTuple):
    """What the options of a command say."""

    place: str | None
    url: str | None
    store: str | None
    app_dir: str

    def load(self) -> App:
        """Load the app, or make one without tasks of the URLs.

        :raises AppNotFound: it cannot be loaded, or neither is named (TC101).
        """
        if self.url is not None and self.place is not None:
            raise click.UsageError("--app and --url exclude each other: an app brings its own URLs")
        if self.store is not None and self.url is None:
            raise click.UsageError("--store goes with --url; an app brings its own store")
        if self.url is None:
            settings = load(directory=self.app_dir).settings
            if self.place is not None or settings.app is not None or settings.url is None:
                return load_app(self.place, self.app_dir)
        from taskcore.app import App

        return App(self.url, store=self.store)

    def run(self, ask: Callable[[App], Awaitable[T]], app: App | None = None) -> T:
        """Open the app, ask, and close it."""
        found = self.load() if app is None else app

        async def run() -> T:
            with unwrap_single():
                async with found:
                    return await ask(found)
            raise AssertionError("unreachable")

        return anyio.run(run)


def with_target(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where it looks; the function gets them as ``at``."""

    @PLACE
    @URL
    @STORE
    @APP_DIR
    @DEBUG
    @wraps(function)
    def command(*args: Any, place: str | None, url: str | None, store: str | None, app_dir: str, **kwargs: Any) -> Any:
        return function(*args, at=Target(place, url, store, app_dir), **kwargs)

    return command


def shown_url(app: App) -> str:
    """Return the broker's URL without its secrets."""
    return show("url", app.settings.url)
