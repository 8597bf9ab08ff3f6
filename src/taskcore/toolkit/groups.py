"""Exception groups: the errors inside, and errors that leave a task group without the group's wrapper."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["TaskExit", "is_cancellation", "leaves_of", "members_of", "unwrap_single"]

#: The errors in a group, as its own constructor put them there: a subclass may call something else ``exceptions``.
members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


class TaskExit(Exception):
    """A task raised this error, which would have ended the event loop: ``SystemExit`` or ``KeyboardInterrupt``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"a task raised {type(error).__name__}: {error}")
        self.error = error


@contextmanager
def unwrap_single() -> Iterator[None]:
    """Raise the error inside an exception group of one, so that ``except BrokerUnavailable`` works."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


def leaves_of(error: BaseException, whole: tuple[type[BaseException], ...] = ()) -> Iterator[BaseException]:
    """Yield the errors in a group and in the groups inside, each once, in order; another error is its own leaf.

    A task's exit is the error that it stands for.

    :param whole: the classes of groups that are not looked into.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if id(each) in seen:
            continue
        seen.add(id(each))
        if issubclass(kind, BaseExceptionGroup) and not issubclass(kind, whole):
            waiting.extend(reversed(members_of(each)))
        else:
            yield each.error if kind is TaskExit else each  # type: ignore[attr-defined]  # as it says


def is_cancellation(kind: type[BaseException]) -> bool:
    """Tell whether an event loop ends tasks with errors of this class."""
    names = (("asyncio", "CancelledError"), ("trio", "Cancelled"))  # a program with such an error has imported them
    classes = [getattr(sys.modules.get(module), name, None) for module, name in names]
    return issubclass(kind, tuple(cls for cls in classes if isinstance(cls, type)))
