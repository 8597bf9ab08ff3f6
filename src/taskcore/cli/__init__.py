"""The command line. It needs the extra ``cli``, and nothing in the library needs it.

__init__.py   main(): says how to install what is missing
root.py       the list of commands, exit codes, how errors look
loading.py    "module:attribute" → App
worker.py …   one file for each command, imported when it is used
"""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        from taskcore.cli.root import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print('error: the command line needs click: pip install "taskcore-framework[cli]"', file=sys.stderr)  # noqa: T201
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
