"""Loggers that cannot end a worker: errors of a handler or filter are printed, not raised (C25)."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

__all__ = ["logger"]


class SafeLogger(_Adapter):
    """Prints the errors of broken handlers and filters to stderr, as the logging module does with its own."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})  # name the place of the caller
        except Exception:  # noqa: BLE001 - a handler or filter is the user's code and may raise anything
            with suppress(Exception):
                traceback.print_exc(file=sys.stderr)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave ``extra`` as the caller gave it; the standard library's adapter drops it."""
        return msg, kwargs


def logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the standard library's logger of this name, behind a guard. The library never configures logging."""
    return SafeLogger(logging.getLogger(name), {})
