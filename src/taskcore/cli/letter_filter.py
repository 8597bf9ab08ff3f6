"""Which dead letters a command is about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskcore.envelope import check_name
from taskcore.toolkit.units import duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.deadletter import DeadLetter

__all__ = ["LetterFilter", "with_letters"]


class LetterFilter(NamedTuple):
    """What the options say; a letter has to fit all of them.

    :param older, newer: seconds since the burial.
    """

    queues: tuple[str, ...]
    cause: str | None
    task: str | None
    error: str | None
    older: float
    newer: float
    letters: frozenset[str]
    all: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing was chosen, nor everything."""
        return not (self.cause or self.task or self.error or self.older or self.newer or self.letters or self.all)

    def require_choice(self) -> None:
        """Refuse to take all letters by an oversight.

        :raises UsageError: no option chooses any.
        """
        if self.is_empty:
            raise click.UsageError("which letters? --cause, --task, --error, --older, --newer, --letter; or --all")

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether a letter fits."""
        age = time.time() - letter.when
        error = letter.trail.errors[-1].type if letter.trail.errors else ""
        return (
            (not self.letters or bool(self.letters & {letter.id, letter.job_id}))
            and self.task in {None, letter.task}
            and self.error in {None, error}
            and age >= self.older
            and (not self.newer or age <= self.newer)
            and (self.cause is None or letter.cause.startswith(self.cause))
        )

    async def queues_of(self, app: App) -> Sequence[str]:
        """Return the queues to look into: those that were named, or all that have letters."""
        if self.queues:
            return self.queues
        admin = app.components.backend.admin
        names = sorted(await admin.queues())
        return [name for name, stats in zip(names, await admin.stats(names), strict=True) if stats.dead]


def with_letters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose letters; the function gets them as ``which``."""

    @click.option("-q", "--queue", "queues", multiple=True, metavar="QUEUE", help="Of this queue; default: of all.")
    @click.option("--cause", metavar="CAUSE", help="Of this cause, or of those that begin so.")
    @click.option("--task", metavar="TASK", help="Of this task.")
    @click.option("--error", metavar="TYPE", help="Whose last error was of this type.")
    @click.option("--older", default="0", metavar="TIME", help="Buried longer ago, such as 30d.")
    @click.option("--newer", default="0", metavar="TIME", help="Buried later.")
    @click.option("--letter", "letters", multiple=True, metavar="ID", help="This one: the id of a letter or a job.")
    @click.option("--all", is_flag=True, help="All of them.")
    @wraps(function)
    def command(*args: Any, queues: tuple[str, ...], letters: tuple[str, ...], **given: Any) -> Any:
        chosen: dict[str, Any] = {name: given.pop(name) for name in ("cause", "task", "error", "all")}
        times: dict[str, Any] = {name: duration(given.pop(name)) for name in ("older", "newer")}
        for queue in queues:
            check_name("queue", queue)
        which = LetterFilter(queues=queues, letters=frozenset(letters), **chosen, **times)
        return function(*args, which=which, **given)

    return command
