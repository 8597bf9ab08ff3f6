"""Consent: no command changes anything without a yes and a reason, and each says where it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from getpass import getuser
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskcore.cli.output import is_terminal, say
from taskcore.cli.target import shown_url
from taskcore.toolkit.logging import logger

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["Consent", "with_consent"]

log = logger("taskcore.audit")


class Consent(NamedTuple):
    """What the options of a changing command say."""

    dry_run: bool
    yes: bool
    reason: str | None

    def get(self, app: App, what: str) -> bool:
        """Return whether to go on: with --yes and --reason, or after a terminal has answered; not in a dry run.

        :raises UsageError: there is no terminal to ask, and no --yes or no --reason.
        """
        if self.dry_run:
            say(f"{shown_url(app)}: would {what}")
            return False
        reason = self.reason
        if not (self.yes and reason):
            if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
                missing = " and ".join([*["--yes"] * (not self.yes), *["--reason TEXT"] * (not reason)])
                raise click.UsageError(f"this changes the broker, and there is no terminal to ask: give {missing}")
            say(f"{shown_url(app)}: {what}")
            reason = reason or click.prompt("reason", err=True)
            if not self.yes and not click.confirm("go on?", err=True):
                raise click.Abort
        log.warning("%s: %s (by %s, reason: %s)", shown_url(app), what, _user(), reason)
        return True


def with_consent(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for consent; the function gets them as ``consent``."""

    @click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--reason", metavar="TEXT", help="Why; it is logged by taskcore.audit.")
    @wraps(function)
    def command(*args: Any, dry_run: bool, yes: bool, reason: str | None, **kwargs: Any) -> Any:
        return function(*args, consent=Consent(dry_run, yes, reason), **kwargs)

    return command


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError, ImportError):  # as in a container without users
        return "?"
