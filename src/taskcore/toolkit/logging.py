"""Loggers that harm nobody: a handler or filter that raises must not end a worker (C25)."""

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

__all__ = ["logger"]


class SafeLogger(_Adapter):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})  # the place that is named is the caller's
        except Exception:  # noqa: BLE001 - a broken handler is the user's; it is told where logging tells its own errors
            with suppress(Exception):
                traceback.print_exc(file=sys.stderr)


def logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """The standard library's logger of this name, behind a guard. The library never configures logging."""
    return SafeLogger(logging.getLogger(name), {})
