"""Actors: clients and workers that act one at a time on one history, come, leave and die.

    actors = Actors(history, app)
    client, worker = actors.enter("client"), actors.enter("worker")
    with actors.acting(worker):             what is recorded meanwhile was done by that worker
        await step_worker.work(job)
    actors.record_death(worker)            from now on the checker expects nothing of it

For tests that play every step themselves: what a connection, a function or an event records then has the right name,
although all of them share one app. Real workers have a connection and a name each and need no cast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from taskcore.testing.history import History, Observable

__all__ = ["Actors"]


class Actors:
    """The names of the acting processes.

    :param app: the source of events; they are recorded under the name of the acting process.
    :param prefix: how all names begin.
    """

    def __init__(self, history: History, app: Observable, *, prefix: str = "") -> None:
        self._history = history
        self._prefix = prefix
        self._lives: Counter[str] = Counter()
        history.listen(app)

    @property
    def current(self) -> str:
        """The name of the process that acts at the moment."""
        return self._history.who

    def enter(self, role: str) -> str:
        """Add an actor under a new name; from now on the checker expects its events (C19)."""
        self._lives[role] += 1
        name = f"{self._prefix}{role}-{self._lives[role]}"
        self._history.record("event", "", who=name, name="listening")
        return name

    @contextmanager
    def acting(self, name: str) -> Iterator[None]:
        """Attribute what is recorded meanwhile to the actor of this name."""
        before, self._history.who = self._history.who, name
        try:
            yield
        finally:
            self._history.who = before

    def switch_to(self, name: str) -> None:
        """Let this actor act from now on."""
        self._history.who = name

    def record_death(self, name: str) -> None:
        """Record a death: the actor finishes nothing that it began, and sends no more events."""
        self._history.record("died", "", who=name)
