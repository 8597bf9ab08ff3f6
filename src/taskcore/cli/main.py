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
    sys.exit(run(sys.argv[1:]))
