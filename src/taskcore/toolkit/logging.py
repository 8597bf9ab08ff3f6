"""Loggers that cannot end a worker, and whose lines cannot be forged.

An error of a handler or filter is printed, not raised (C25). Texts that come from elsewhere, such as ids, names and
errors, are logged with their control characters as escapes: one call writes one line, and no terminal obeys it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

__all__ = ["logger", "visible"]

ARGUMENT_LIMIT = 4_096  #: characters of one argument that are logged


def visible(text: str) -> str:
    """Write a text with its control characters, bidi marks and line ends as escapes, as a log may show it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class SafeLogger(_Adapter):
    """Prints the errors of broken handlers and filters to stderr, as the logging module does with its own.

    The standard library's logger is made at the first use: a configuration with ``disable_existing_loggers``, its
    default, would mute one that is made at import.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.Logger(name), {})  # noqa: LOG001 - stands for the real one until then
        self._found = False

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is the standard library's
        """Tell whether a handler may want a line of this level."""
        if not self._found:
            self._found, self.logger = True, logging.getLogger(self.logger.name)
        return super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Keep the ``extra`` of each call: the standard adapter replaces it."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        try:
            shown = [arg if isinstance(arg, int | float) else _Visible(arg) for arg in args]
            super().log(level, msg, *shown, **{"stacklevel": 2, **kwargs})  # name the place of the caller
        except Exception:  # noqa: BLE001 - a handler or filter is the user's code and may raise anything
            with suppress(Exception):
                traceback.print_exc(file=sys.stderr)


class _Visible:
    """An argument of a log line, whose text is made when a handler asks for it."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return _bounded(str(self._value))

    def __repr__(self) -> str:
        return _bounded(repr(self._value))


def _bounded(text: str) -> str:
    return visible(text if len(text) <= ARGUMENT_LIMIT else f"{text[:ARGUMENT_LIMIT]}…")


def logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the standard library's logger of this name, behind a guard. The library never configures logging."""
    return SafeLogger(name)
