"""The entry point of the program ``taskcore``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        from taskcore.cli.group import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print('error: the command line needs click: pip install "taskcore-framework[cli]"', file=sys.stderr)  # noqa: T201
        sys.exit(2)
    code = run(sys.argv[1:])
    _forget_unwritable()
    sys.exit(code)


def _forget_unwritable() -> None:
    """Let a standard error that cannot be written, as on a full disk, change no exit code."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None  # as Python itself does where there is none
